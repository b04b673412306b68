# SPDX-License-Identifier: Apache-2.0
"""Cut a disk into segments of work, and skip what is zero without looking at each part of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from diskcopy.extents import ExtentMap
from diskcopy.image import Image

# What a worker takes at a time: enough to walk holes and read ahead in one go, few
# enough bytes that several workers end together. A multiple of every qcow2 cluster
# size, so that two workers never meet in one cluster.
SEGMENT = 16 << 20

# Zero runs shorter than this are read with the data around them: one large request
# and a scan cost less than two requests.
GAP = 64 << 10

# How much of an image is asked about at first.
_FIRST_WINDOW = 1 << 20

# A long zero run is cut, so that progress moves and cancelling is heard; but into no more
# pieces than that takes, since the cost must not follow the size of the disk.
_ZERO_RUN = 1 << 34
_MOST_CUTS = 1024


class Segment(NamedTuple):
    """A range of the disk to settle, in bytes.

    data: some of it may be data; otherwise all of it reads as zeroes
    hole: (where not data) it takes no space in the source either
    """

    start: int
    end: int
    data: bool
    hole: bool


def segments(images: Sequence[Image], start: int, end: int, unit: int) -> Iterator[Segment]:
    """The segments of [start, end), ascending: zero in all of the images, or data in at least one.

    A data segment begins at a multiple of `unit` (a power of two up to SEGMENT), or at
    `start`, and ends at a multiple of SEGMENT, or at `end`. The cost follows the extents.
    """
    walks = [_Walk(image, end) for image in images]
    longest = max(_ZERO_RUN, (end - start) // _MOST_CUTS)
    position = start
    while position < end:
        zero_until = min(walk.zero_until(position) for walk in walks)
        if zero_until < end:
            zero_until -= zero_until % unit
        if zero_until > position:
            stop = min(zero_until, position + longest)
            yield Segment(position, stop, False, all(walk.hole for walk in walks))
        else:
            stop = min(position - position % SEGMENT + SEGMENT, end)
            yield Segment(position, stop, True, False)
        position = stop


class _Walk:
    """How far an image reads as zeroes from a position; asks it again only where it must.

    It asks about a little at first and about more and more while all of that is zero: an
    image goes through its tables for as long as an answer is, and only zeroes are worth it.
    """

    def __init__(self, image: Image, end: int) -> None:
        self._image = image
        self._end = end
        self._zero_until = 0
        self.hole = False

    def zero_until(self, position: int) -> int:
        """The end of the zeroes that begin at `position`, or `position` where there is data."""
        if position < self._zero_until:
            return self._zero_until
        self.hole = True
        window = _FIRST_WINDOW
        while position < self._end:
            length = min(window, self._end - position)
            extent = next(self._image.extents(position, length))
            if extent.data:
                break
            self.hole = self.hole and extent.hole
            position = extent.end
            if extent.length < length:
                # Data comes next, or zeroes of another kind: whoever asks again finds out.
                break
            window *= 8
        self._zero_until = position
        return position


def data_ranges(images: Sequence[Image], start: int, end: int, unit: int) -> ExtentMap:
    """What of [start, end) has to be read because it is data in one of the images, in ranges
    that begin at multiples of `unit` and are worth a request each."""
    data = ExtentMap()
    for image in images:
        data |= ExtentMap.data_of(image.extents(start, end - start))
    return data.widened(unit, GAP, end)


def requests(ranges: ExtentMap, length: int) -> Iterator[tuple[int, int]]:
    """The ranges cut into (start, end) of at most `length` bytes, at multiples of it."""
    for start, end in ranges:
        while start < end:
            stop = min(start - start % length + length, end)
            yield start, stop
            start = stop
