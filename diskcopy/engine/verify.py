# SPDX-License-Identifier: Apache-2.0
"""Read a disk for its digests: to check a target against its source, or for a checksum alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from diskcopy import _zero
from diskcopy.engine import plan
from diskcopy.engine.digest import LEAF, ZERO_LEAF, DiskDigest, block_digests, leaf_digests
from diskcopy.engine.plan import SEGMENT, Segment
from diskcopy.engine.progress import Progress, Tally
from diskcopy.engine.workers import Stop, default_workers, run
from diskcopy.errors import Corrupt, Mismatch, Unsupported, WrongFormat
from diskcopy.image import Image

_REMEDY = "check the storage, and copy again"


def verify(
    target: Image,
    source: Image,
    expected: DiskDigest,
    size: int,
    *,
    workers: int,
    stop: Stop,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Raise Mismatch where the flushed target does not read back, from its storage, as `expected`.

    source: what was copied, to say exactly where they differ
    """
    try:
        reread = target.reread()
        found = _digest(reread, size, "verify", workers=workers, stop=stop, progress=progress)
    except (Corrupt, Unsupported, WrongFormat) as error:
        raise Mismatch(
            target.name,
            f"does not hold what was written to it: read back, it {error.reason}",
            offset=error.offset,
            remedy=_REMEDY,
        ) from None
    for start in expected.differing(found):
        offset = _first_difference(source, reread, start, min(start + SEGMENT, size))
        where = f"in the {min(SEGMENT, size - start)} bytes" if offset is None else "from the first byte"
        raise Mismatch(
            target.name,
            f"does not hold what was written to it, {where}",
            offset=start if offset is None else offset,
            remedy=_REMEDY,
        )


def checksum(
    image: Image,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> str:
    """The digest of a disk, in hexadecimal: the same for the same disk in any format or
    sparseness (see `engine.digest`). Holes and zero extents are not read."""
    if image.size is None:
        raise Unsupported(image.name, "is a stream, and checksums need an image", remedy="copy it first")
    found = _digest(
        image,
        image.size,
        "checksum",
        workers=workers or default_workers(image),
        stop=Stop(cancel),
        progress=progress,
    )
    image.check_unchanged()
    return found.checksum(image.size)


def _digest(
    image: Image,
    size: int,
    phase: str,
    *,
    workers: int,
    stop: Stop,
    progress: Callable[[Progress], None] | None,
) -> DiskDigest:
    digest = DiskDigest()
    tally = Tally(phase, size, progress)
    segments = plan.segments([image], 0, size, LEAF)

    def leaves_of(at: int, until: int, buffer: memoryview) -> Iterable[tuple[int, bytes]]:
        if "digest" in image.can:
            (digest,) = block_digests(image, at, until - at)
            return () if digest == ZERO_LEAF else [(at // LEAF, digest)]
        block = buffer[: until - at]
        image.readinto(at, block)
        return leaf_digests(at, block)

    def work(segment: Segment, buffer: memoryview) -> None:
        start, end = segment.start, segment.end
        leaves: dict[int, bytes] = {}
        read = 0
        if segment.data:
            ranges = plan.data_ranges([image], start, end, LEAF)
            for at, until in plan.requests(ranges, LEAF):
                stop.check()
                leaves.update(leaves_of(at, until, buffer))
                read += until - at
            digest.set_segment(leaves)
        tally.add(data=read, hole=end - start - read)

    tally.tell()
    run(lambda buffer: next(segments, None), work, workers=workers, room=LEAF, stop=stop, tick=tally.tell)
    tally.tell()
    return digest


def _first_difference(left: Image, right: Image, start: int, end: int) -> int | None:
    """Where two images differ in a range; None where they do not now, or `left` is a stream."""
    if left.size is None:
        return None
    for at in range(start, end, LEAF):
        length = min(LEAF, end - at)
        index = _zero.first_difference(left.read(at, length), right.read(at, length))
        if index >= 0:
            return at + index
    return None
