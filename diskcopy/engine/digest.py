# SPDX-License-Identifier: Apache-2.0
"""One digest for a disk, whatever its format, its sparseness, or the order it is read in.

The disk, padded with zeroes, is a binary hash tree of SHA-256. A leaf is the digest of
1 MiB of it; a node is the digest of its two children's digests. Below every node over
nothing but zeroes lies the same tree, so its digest is known without reading: the cost
follows the data. Nodes at the height of a segment (16 leaves) are computed by whoever
read the segment, in any order. The checksum is the digest of a label, the disk's size,
and the root over the smallest power of two of segments that holds the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from diskcopy.engine.plan import SEGMENT
from diskcopy.image import Image

if TYPE_CHECKING:
    from hashlib import _Hash

    from typing_extensions import Buffer

LEAF = 1 << 20
_LEAVES = SEGMENT // LEAF
# What a storage says of a leaf of zeroes, which it need not take a digest of.
ZERO_LEAF = bytes(32)
_LABEL = b"diskcopy checksum 1\n"


def _sha256(data: Buffer) -> _Hash:
    # hashlib brings OpenSSL, and most copies take no digest.
    from hashlib import sha256

    return sha256(data)


def leaf_digests(offset: int, block: memoryview) -> Iterator[tuple[int, bytes]]:
    """The index in the disk and the digest of each leaf of a block that begins at one; the
    disk's last leaf is padded with zeroes."""
    for at in range(0, block.nbytes, LEAF):
        leaf = block[at : at + LEAF]
        digest = _sha256(leaf)
        if leaf.nbytes < LEAF:
            digest.update(bytes(LEAF - leaf.nbytes))
        yield (offset + at) // LEAF, digest.digest()


def block_digests(image: Image, offset: int, length: int) -> list[bytes]:
    """The digest of each leaf of a range of an image, taken where it lies if it can be;
    ZERO_LEAF for one of zeroes."""
    if "digest" in image.can:
        return image.digests(offset, length, LEAF)
    block = memoryview(image.read(offset, length))
    zero = zero_digest(0)
    digests = (
        digest for at in range(0, length, LEAF) for _, digest in leaf_digests(0, block[at : at + LEAF])
    )
    return [ZERO_LEAF if digest == zero else digest for digest in digests]


@cache
def zero_digest(height: int) -> bytes:
    """The node `height` levels above the leaves, over nothing but zeroes."""
    if height == 0:
        return _sha256(bytes(LEAF)).digest()
    child = zero_digest(height - 1)
    return _sha256(child + child).digest()


def _parents(nodes: dict[int, bytes], height: int) -> dict[int, bytes]:
    """The level above `nodes`, which is `height` levels above the leaves; only what is not zero."""
    zero = zero_digest(height)
    return {
        parent: _sha256(nodes.get(2 * parent, zero) + nodes.get(2 * parent + 1, zero)).digest()
        for parent in {index // 2 for index in nodes}
    }


_SEGMENT_HEIGHT = _LEAVES.bit_length() - 1


class DiskDigest:
    """The digests of a disk's segments, filled in by several threads.

    A segment's leaves are given all at once, or, while a stream comes in, one by one.
    """

    def __init__(self) -> None:
        # What is missing here is zero. No two threads set one segment, and setting a key of
        # a dict is atomic; the leaves of a segment that is not complete yet need the lock.
        self._segments: dict[int, bytes] = {}
        self._pending: dict[int, dict[int, bytes]] = {}
        self._lock = threading.Lock()

    def set_segment(self, leaves: dict[int, bytes]) -> None:
        """leaves: the digests of one segment by their index in the disk; those left out are zero."""
        nodes = leaves
        for height in range(_SEGMENT_HEIGHT):
            nodes = _parents(nodes, height)
        zero = zero_digest(_SEGMENT_HEIGHT)
        self._segments.update({segment: node for segment, node in nodes.items() if node != zero})

    def add_leaves(self, leaves: dict[int, bytes]) -> None:
        """leaves: some of the digests, by their index in the disk; each leaf once."""
        with self._lock:
            for index, digest in leaves.items():
                segment = self._pending.setdefault(index // _LEAVES, {})
                segment[index] = digest
                if len(segment) == _LEAVES:
                    self.set_segment(self._pending.pop(index // _LEAVES))

    def _finish(self) -> dict[int, bytes]:
        with self._lock:
            for leaves in self._pending.values():
                self.set_segment(leaves)
            self._pending.clear()
        return self._segments

    def differing(self, other: DiskDigest) -> list[int]:
        """The starts of the segments in which two disks differ, ascending."""
        mine, its = self._finish(), other._finish()
        return [n * SEGMENT for n in sorted(mine.keys() | its.keys()) if mine.get(n) != its.get(n)]

    def checksum(self, size: int) -> str:
        """The digest of the whole disk of `size` bytes, in hexadecimal."""
        nodes = self._finish()
        height = _SEGMENT_HEIGHT
        count = max(1, -(-size // SEGMENT))
        while count > 1:
            nodes = _parents(nodes, height)
            height += 1
            count = -(-count // 2)
        root = nodes.get(0, zero_digest(height))
        return _sha256(_LABEL + size.to_bytes(8, "little") + root).hexdigest()
