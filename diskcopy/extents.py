# SPDX-License-Identifier: Apache-2.0
"""Extents: which ranges of an image are data, read as zeroes, or take no space.

All offsets and lengths are bytes.

`Extent` is one range with its facts; images yield them lazily, one after another.
`ExtentMap` is a set of bytes as sorted ranges, for algebra over very many of them:

    asked range       |----------------------------------|
    extents(...)      |  data   | zero+hole |zero|  data  |   contiguous, neighbours differ
    ExtentMap.data    |---------|                |--------|   only the ranges, disjoint, apart
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from diskcopy import _extents


class Extent(NamedTuple):
    """A range of an image and two independent facts; False is always the safe answer.

    start, length: bytes
    zero: the range reads as zeroes
    hole: the range takes no space here
    """

    start: int
    length: int
    zero: bool
    hole: bool

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def data(self) -> bool:
        """Has to be read: not known to be zero."""
        return not self.zero


# What images report: an Extent's four values, as a tuple that costs less to make.
Facts = tuple[int, int, bool, bool]

_new_extent = partial(tuple.__new__, Extent)


def normalised(items: Iterable[Facts], start: int, end: int, name: str = "extents") -> Iterator[Extent]:
    """The extents contract, enforced: exactly [start, end), ascending, contiguous, neighbours differ.

    `items` may begin before `start`, end after `end`, and repeat the facts of a
    neighbour; they must be ascending and contiguous over the range. Empty items are
    passed over. Raises Corrupt where they leave a gap, go back, or stop early.
    """
    return _extents.normalised(items, start, end, name, _new_extent)


class ExtentMap:
    """A set of bytes, held as sorted, disjoint ranges that do not touch.

    `numpy.asarray(extent_map)` is its (n, 2) int64 array of [start, end) pairs, without
    a copy. `a | b`, `a & b` and `a - b` are union, intersection and difference, each in
    one pass over both.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        """The union of the [start, end) `pairs`, in any order, overlapping or not."""
        flat = array("q")
        for pair in pairs:
            flat.extend(pair)
        self._pairs: array[int] = _extents.merge(flat)

    @classmethod
    def _of(cls, pairs: array[int]) -> ExtentMap:
        new = cls.__new__(cls)
        new._pairs = pairs
        return new

    @classmethod
    def data_of(cls, extents: Iterable[Extent]) -> ExtentMap:
        """The bytes of `extents` that are data."""
        flat = array("q")
        for start, length, zero, _ in extents:
            if not zero:
                flat.append(start)
                flat.append(start + length)
        return cls._of(_extents.merge(flat))

    @classmethod
    def from_bitmap(cls, bitmap: bytes, unit: int, base: int = 0) -> ExtentMap:
        """The set bits of `bitmap`, least significant of each byte first: bit n is `unit` bytes
        at base + n * unit."""
        return cls._of(_extents.from_bitmap(bitmap, unit, base))

    def inverted(self, start: int, end: int) -> ExtentMap:
        """The bytes of [start, end) that are not in the set."""
        return self._of(_extents.invert(self._pairs, start, end))

    def widened(self, unit: int, gap: int, limit: int) -> ExtentMap:
        """Each range rounded outward to multiples of `unit` but not beyond `limit`, and ranges
        joined that are less than `gap` apart: fewer and larger requests for a few more bytes."""
        return self._of(_extents.widen(self._pairs, unit, gap, limit))

    def __or__(self, other: ExtentMap) -> ExtentMap:
        return self._of(_extents.unite(self._pairs, other._pairs))

    def __and__(self, other: ExtentMap) -> ExtentMap:
        return self._of(_extents.intersect(self._pairs, other._pairs))

    def __sub__(self, other: ExtentMap) -> ExtentMap:
        return self._of(_extents.subtract(self._pairs, other._pairs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtentMap) and self._pairs == other._pairs

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._pairs) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The [start, end) pairs, ascending."""
        pairs = iter(self._pairs)
        return zip(pairs, pairs, strict=True)

    def __repr__(self) -> str:
        return f"ExtentMap({len(self)} ranges, {self.total} bytes)"

    @property
    def total(self) -> int:
        """The number of bytes in the set."""
        return _extents.total(self._pairs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy

        flat = numpy.frombuffer(self._pairs, numpy.int64) if self._pairs else numpy.empty(0, numpy.int64)
        pairs = flat.reshape(-1, 2)
        return pairs.astype(dtype or pairs.dtype, copy=bool(copy))
