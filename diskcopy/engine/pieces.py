# SPDX-License-Identifier: Apache-2.0
"""Which parts of disks lie as they are in descriptors, so that a kernel can do all the work on them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import NamedTuple

from diskcopy.image import Image


class Part(NamedTuple):
    """A range of the disk, in bytes, and where it lies.

    storages: for each image the one whose descriptor holds all of the range; none where it
        has to be read through the images
    pieces: for the kernels, a row of numbers for each piece of it, without gaps: its start on
        the disk, its length, and its offset in each of the storages
    """

    start: int
    end: int
    storages: tuple[Image, ...]
    pieces: array[int]


def parts(images: Sequence[Image], start: int, end: int, unit: int) -> Iterator[Part]:
    """[start, end) in parts, ascending and contiguous, each of them wholly in one storage for
    each image, or to be read. They begin and end at multiples of `unit`, or at `start` and `end`."""
    rows = reduce(_intersected, (_rows(image, start, end) for image in images))
    first = at = start
    storages: tuple[Image, ...] = ()
    pieces: array[int] = array("q")
    for low, high, found, offsets in rows:
        row_start = low + -low % unit
        row_end = high if high == end else high - high % unit
        if row_start >= row_end:
            continue
        if row_start > at or found != storages:
            if at > first:
                yield Part(first, at, storages, pieces)
            if row_start > at:
                yield Part(at, row_start, (), array("q"))
            first, storages, pieces = row_start, found, array("q")
        pieces.append(row_start)
        pieces.append(row_end - row_start)
        for offset in offsets:
            pieces.append(offset + row_start - low)
        at = row_end
    if at > first:
        yield Part(first, at, storages, pieces)
    if end > at:
        yield Part(at, end, (), array("q"))


# A range [start, end) that lies in one piece for each image: their storages, and its offset in each.
_Row = tuple[int, int, tuple[Image, ...], tuple[int, ...]]


def _rows(image: Image, start: int, end: int) -> Iterator[_Row]:
    for piece_start, length, storage, offset in image.locate(start, end - start):
        yield piece_start, piece_start + length, (storage,), (offset,)


def _intersected(left: Iterator[_Row], right: Iterator[_Row]) -> Iterator[_Row]:
    """The ranges that both have in one piece."""
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        low, high = max(a[0], b[0]), min(a[1], b[1])
        if low < high:
            offsets = (*(n + low - a[0] for n in a[3]), *(n + low - b[0] for n in b[3]))
            yield low, high, a[2] + b[2], offsets
        if a[1] == high:
            a = next(left, None)
        if b[1] == high:
            b = next(right, None)
