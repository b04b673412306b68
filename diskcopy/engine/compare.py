# SPDX-License-Identifier: Apache-2.0
"""Whether two disks hold the same, and if not, where they begin to differ."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from diskcopy import _fd, _zero
from diskcopy.engine import plan
from diskcopy.engine.digest import LEAF, ZERO_LEAF, block_digests
from diskcopy.engine.pieces import parts
from diskcopy.engine.plan import Segment
from diskcopy.engine.progress import Progress, Tally
from diskcopy.engine.workers import REQUEST, Stop, default_workers, run
from diskcopy.errors import Unsupported
from diskcopy.extents import ExtentMap
from diskcopy.image import Image

# A kernel reads both disks through buffers that stay in a core's own cache.
_KERNEL_BUFFER = 256 << 10


class Comparison(NamedTuple):
    """What a comparison found; offsets and sizes in bytes.

    same: the disks read alike
    offset: the first byte in which they differ, or the end of the smaller disk where only
        their sizes differ
    """

    same: bool
    offset: int | None
    left_size: int
    right_size: int


def compare(
    left: Image,
    right: Image,
    *,
    strict: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Comparison:
    """Compare two disks; what reads as zero in both by their extents is not read.

    A disk that is larger than the other and reads as zero there is the same, unless `strict`.
    """
    for image in (left, right):
        if image.size is None:
            raise Unsupported(image.name, "is a stream, and comparing needs an image", remedy="copy it first")
    assert left.size is not None
    assert right.size is not None
    shared = min(left.size, right.size)
    longer = left if left.size > right.size else right
    stop = Stop(cancel)
    tally = Tally("compare", max(left.size, right.size), progress)
    tally.tell()
    workers = workers or default_workers(left, right)
    offset = _Search([left, right], 0, shared, tally, stop).run(workers)
    if offset is None and left.size != right.size:
        offset = shared
        if not strict:
            offset = _Search([longer], shared, longer.size or 0, tally, stop).run(workers)
    tally.tell()
    for image in (left, right):
        image.check_unchanged()
    return Comparison(offset is None, offset, left.size, right.size)


class _Search:
    """The first byte of [begin, end) in which two images differ; or of one, that is not zero."""

    def __init__(self, images: list[Image], begin: int, end: int, tally: Tally, stop: Stop) -> None:
        self._images = images
        self._tally = tally
        self._stop = stop
        self._segments = plan.segments(images, begin, end, 1)
        self._lock = threading.Lock()
        self._found: int | None = None

    def run(self, workers: int) -> int | None:
        run(
            self._pull,
            self._work,
            workers=workers,
            room=len(self._images) * REQUEST,
            stop=self._stop,
            tick=self._tally.tell,
        )
        return self._found

    def _pull(self, buffer: memoryview) -> Segment | None:
        segment = next(self._segments, None)
        # Segments before a difference are looked at to the end: it may not be the first.
        if segment is None or (self._found is not None and segment.start >= self._found):
            return None
        return segment

    def _work(self, segment: Segment, buffer: memoryview) -> None:
        start, end = segment.start, segment.end
        read = 0
        if segment.data:
            for at, until in plan.data_ranges(self._images, start, end, 1):
                self._stop.check()
                read += until - at
                offset = self._search(at, until, buffer)
                if offset is not None:
                    self._report(offset)
                    return
        self._tally.add(data=read, hole=end - start - read)

    def _search(self, start: int, end: int, buffer: memoryview) -> int | None:
        """The first byte of [start, end) in which the images differ."""
        for part in parts(self._images, start, end, 1):
            position = part.start
            if len(part.storages) == 2:
                left, right = (storage.fileno() for storage in part.storages)
                assert left is not None
                assert right is not None
                position += _fd.same_pieces(left, right, part.pieces, buffer[:_KERNEL_BUFFER])
            elif any("digest" in image.can for image in self._images):
                position += self._same_by_digest(part.start, part.end)
            for at, until in plan.requests(ExtentMap([(position, part.end)]), REQUEST):
                self._stop.check()
                if self._found is not None and at >= self._found:
                    return None
                index = self._first_difference(at, until - at, buffer)
                if index is not None:
                    return at + index
        return None

    def _same_by_digest(self, start: int, end: int) -> int:
        """How many bytes from `start` have the same digests, which storages take where they lie."""
        for at in range(start, end, REQUEST):
            self._stop.check()
            length = min(REQUEST, end - at)
            sides = [block_digests(image, at, length) for image in self._images]
            if len(sides) == 1:
                sides.append([ZERO_LEAF] * len(sides[0]))
            for number, (one, other) in enumerate(zip(*sides, strict=True)):
                if one != other:
                    return at + number * LEAF - start
        return end - start

    def _first_difference(self, at: int, length: int, buffer: memoryview) -> int | None:
        blocks = [buffer[n * REQUEST : n * REQUEST + length] for n in range(len(self._images))]
        for image, block in zip(self._images, blocks, strict=True):
            image.readinto(at, block)
        index = _zero.first_difference(blocks[0], blocks[1] if len(blocks) == 2 else bytes(length))
        return None if index < 0 else index

    def _report(self, offset: int) -> None:
        with self._lock:
            if self._found is None or offset < self._found:
                self._found = offset
