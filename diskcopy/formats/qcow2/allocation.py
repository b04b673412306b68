# SPDX-License-Identifier: Apache-2.0
"""The image file's clusters, given out one after another, and their refcounts.

Nothing is ever freed, so there is one append point; refcount blocks behind it are final
and go to the storage, and memory holds the few around it:

    | header | L2 | data ...      | refcount block | data, compressed data ... |
                                                     ^ tail       append point ^

Each block is placed right after the run that first needed it, which keeps every run in
one piece. Compressed clusters are packed byte by byte; the tail is where the next one
goes, in the last cluster that has some.

The caller holds a lock around every method here.
"""

from __future__ import annotations

import errno
from array import array

from diskcopy.errors import NoSpace
from diskcopy.formats.qcow2 import header
from diskcopy.formats.qcow2.geometry import ENTRY, REFCOUNT, Geometry
from diskcopy.image import Image

_ONE = (1).to_bytes(REFCOUNT, "big")


class Allocation:
    """Hands out clusters of `storage`, from the header's on, and counts references to them."""

    def __init__(self, storage: Image, grid: Geometry, *, compressed: bool) -> None:
        self._storage = storage
        self._grid = grid
        #: the first byte that nobody has yet
        self.end = 0
        #: refcount block n counts the clusters from n * block_entries and lies at blocks[n]
        self.blocks = array("Q")
        # Blocks that may still change; all before them are in the storage.
        self._open: dict[int, bytearray] = {}
        # The next compressed byte; at a cluster's start there is no cluster to share.
        self._tail = 0
        self._limit = self._last_end(compressed)
        self.take(1)

    def _last_end(self, compressed: bool) -> int:
        """The end that no image file can pass, by its storage or by the format."""
        bits = self._grid.cluster_bits
        # A compressed cluster's offset has 62 bits less those that count its sectors.
        limits = [1 << (62 - (bits - 8)) if compressed else header.OFFSET_MASK]
        limits.append(header.MAX_REFCOUNT_TABLE_BYTES // ENTRY * self._grid.block_entries << bits)
        if "resize" not in self._storage.can:
            limits.append(self._storage._size())
        return min(limits)

    def take(self, clusters: int) -> int:
        """Where `clusters` in one piece start that nobody else has, each counted once."""
        start = self._advance(clusters << self._grid.cluster_bits)
        self._count_once(start, clusters)
        self._settle()
        return start

    def take_packed(self, lengths: list[int]) -> int:
        """Where compressed clusters of so many bytes start, packed one after another."""
        size = self._grid.cluster_size
        total = sum(lengths)
        room = -self._tail % size
        shares = room and (total <= room or self._tail + room == self.end)
        if shares:
            start = self._tail
            new = self._grid.clusters(total - room) if total > room else 0
            if new:
                self._advance(new << self._grid.cluster_bits)
        else:
            start = self._advance(self._grid.clusters(total) << self._grid.cluster_bits)
        position = start
        for length in lengths:
            self._count_touched(position, position + length)
            position += length
        self._tail = position
        self._settle()
        return start

    def write_counts(self) -> None:
        """Bring all refcounts to the storage."""
        for index in list(self._open):
            self._write_block(index)

    def _advance(self, length: int) -> int:
        """Move the append point over `length` bytes, and place the refcount blocks that then are missing."""
        start, bits = self.end, self._grid.cluster_bits
        end, placed = start + length, len(self.blocks)
        while placed << (2 * bits - 1) < end:
            end += 1 << bits
            placed += 1
        if end > self._limit:
            raise NoSpace(
                self._storage.name,
                f"the qcow2 image needs more than the {self._limit} bytes there are",
                errno=errno.ENOSPC,
                offset=start,
                remedy="use a larger target, or larger clusters",
            )
        self.end = end
        first = start + length
        for offset in range(first, end, 1 << bits):
            self._open[len(self.blocks)] = bytearray(1 << bits)
            self.blocks.append(offset)
        self._count_once(first, (end - first) >> bits)
        return start

    def _count_once(self, start: int, clusters: int) -> None:
        cluster = start >> self._grid.cluster_bits
        stop, entries = cluster + clusters, self._grid.block_entries
        while cluster < stop:
            index, first = divmod(cluster, entries)
            count = min(stop - cluster, entries - first)
            self._open[index][first * REFCOUNT : (first + count) * REFCOUNT] = _ONE * count
            cluster += count

    def _count_touched(self, start: int, end: int) -> None:
        """Count one more compressed cluster that touches the clusters of [start, end).

        Even one byte repeated compresses to 13 bytes, in clusters of 64 KiB, and to some
        70 in those of 2 MiB: 16 bits are enough to count what fits into one cluster.
        """
        bits = self._grid.cluster_bits
        for cluster in range(start >> bits, ((end - 1) >> bits) + 1):
            index, entry = divmod(cluster, self._grid.block_entries)
            block, at = self._open[index], entry * REFCOUNT
            count = int.from_bytes(block[at : at + REFCOUNT], "big") + 1
            block[at : at + REFCOUNT] = count.to_bytes(REFCOUNT, "big")

    def _settle(self) -> None:
        """Write the blocks that cannot change any more, and forget them."""
        if len(self._open) == 1:
            return
        # The block of the tail's cluster may be counted in again, however far the end has moved.
        bits, sharing = self._grid.cluster_bits, self._tail % self._grid.cluster_size
        first = (self._tail if sharing else self.end) >> bits
        for index in list(self._open):
            if index < first // self._grid.block_entries and index + 1 < len(self.blocks):
                self._write_block(index)
                del self._open[index]

    def _write_block(self, index: int) -> None:
        self._storage.write(self.blocks[index], self._open[index])
