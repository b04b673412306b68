# SPDX-License-Identifier: Apache-2.0
"""Extent algebra is set algebra: every operation answers as Python sets of bytes do."""

from __future__ import annotations

from array import array
from itertools import pairwise

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskcopy import _extents
from diskcopy.extents import ExtentMap

pairs = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=14)
sorted_pairs = pairs.map(lambda some: flat(bytes_of(some)))
byte_sets = st.frozensets(st.integers(0, 60))


def bytes_of(some: list[tuple[int, int]]) -> set[int]:
    return {byte for start, end in some for byte in range(start, end)}


def flat(some: set[int] | frozenset[int]) -> array[int]:
    """The sorted ranges of a set of bytes: each starts and ends where membership changes."""
    return array(
        "q",
        [
            at
            for at in range(min(some, default=0), max(some, default=0) + 2)
            if (at in some) != (at - 1 in some)
        ],
    )


def unflat(ranges: array[int]) -> set[int]:
    return bytes_of(list(zip(ranges[::2], ranges[1::2], strict=True)))


@given(pairs)
def test_merge_is_the_union_of_its_ranges(some: list[tuple[int, int]]) -> None:
    merged = _extents.merge(array("q", [edge for pair in some for edge in pair]))
    assert merged == flat(bytes_of(some))
    assert all(left < right for left, right in pairwise(merged))


@given(byte_sets, byte_sets, st.integers(0, 60), st.integers(0, 60))
def test_algebra_is_that_of_sets(left: frozenset[int], right: frozenset[int], start: int, end: int) -> None:
    a, b = flat(left), flat(right)
    assert _extents.unite(a, b) == flat(left | right)
    assert _extents.intersect(a, b) == flat(left & right)
    assert _extents.subtract(a, b) == flat(left - right)
    assert _extents.invert(a, start, end) == flat(set(range(start, end)) - left)
    assert _extents.total(a) == len(left)


@given(byte_sets, st.integers(1, 9), st.integers(0, 20), st.integers(0, 70))
def test_widened_ranges_are_whole_units(some: frozenset[int], unit: int, gap: int, limit: int) -> None:
    """Rounded outward, cut, and joined where the next range begins less than `gap` after."""
    some = frozenset(byte for byte in some if byte < limit)
    whole = {byte for at in some for byte in range(at - at % unit, min(at - at % unit + unit, limit))}
    edges = list(flat(whole))
    for end, start in zip(edges[1:-1:2], edges[2::2], strict=True):
        if start - end < gap:
            whole |= set(range(end, start))
    assert _extents.widen(flat(some), unit, gap, limit) == flat(whole)


@given(st.binary(max_size=40), st.integers(1, 9), st.integers(0, 9))
def test_a_bitmap_is_its_set_bits(bitmap: bytes, unit: int, base: int) -> None:
    expected = {
        base + bit * unit + byte
        for bit in range(8 * len(bitmap))
        if bitmap[bit // 8] >> bit % 8 & 1
        for byte in range(unit)
    }
    assert _extents.from_bitmap(bitmap, unit, base) == flat(expected)


@given(
    st.lists(st.sampled_from([b"\0" * 9, b"\xff" * 9, b"\x80", b"\x01", b"\x55\xaa"]), max_size=12).map(
        b"".join
    )
)
def test_a_bitmap_with_long_runs_is_its_set_bits(bitmap: bytes) -> None:
    expected = {bit for bit in range(8 * len(bitmap)) if bitmap[bit // 8] >> bit % 8 & 1}
    assert _extents.from_bitmap(bitmap, 1, 0) == flat(expected)


@given(byte_sets, byte_sets)
def test_extent_maps_are_sets(left: frozenset[int], right: frozenset[int]) -> None:
    a = ExtentMap((byte, byte + 1) for byte in sorted(left, reverse=True))
    b = ExtentMap((byte, byte + 1) for byte in right)
    assert unflat(array("q", [edge for pair in a for edge in pair])) == left
    assert (a | b) == ExtentMap((byte, byte + 1) for byte in left | right)
    assert (a & b) == ExtentMap((byte, byte + 1) for byte in left & right)
    assert (a - b) == ExtentMap((byte, byte + 1) for byte in left - right)
    assert a.total == len(left)
    assert a.inverted(0, 61) | a == ExtentMap([(0, 61)])
    assert len(a) == len(list(a)) == numpy.asarray(a).shape[0]
    assert numpy.asarray(a).tolist() == [list(pair) for pair in a]


def test_the_numpy_view_is_no_copy() -> None:
    extents = ExtentMap([(1, 2), (4, 9)])
    assert numpy.shares_memory(numpy.asarray(extents), numpy.asarray(extents))
    assert not numpy.shares_memory(numpy.array(extents, copy=True), numpy.asarray(extents))
    assert numpy.asarray(extents, dtype=numpy.uint64).dtype == numpy.uint64


def test_numpy_arrays_are_taken_as_they_are() -> None:
    assert list(_extents.merge(numpy.array([5, 9, 0, 5], dtype=numpy.int64))) == [0, 9]


def test_disks_of_eight_exbibytes_do_not_overflow() -> None:
    most = 2**63 - 1
    assert list(_extents.invert(array("q"), 0, most)) == [0, most]
    assert list(_extents.merge(array("q", [0, most, most - 1, most]))) == [0, most]
    assert list(_extents.from_bitmap(b"\x01", 2**59, 2**62 - 1)) == [2**62 - 1, 2**62 - 1 + 2**59]
    assert list(_extents.widen(array("q", [most - 9, most - 8]), 2**40, 0, most)) == [2**63 - 2**40, most]
    assert list(_extents.unite(array("q", [0, most]), array("q", [5, 6]))) == [0, most]
    with pytest.raises(OverflowError):
        _extents.from_bitmap(b"\x01", 2**60, 2**62)
    with pytest.raises(OverflowError):
        _extents.from_bitmap(b"\x01\x00", 2**59, 2**62)


def test_wrong_arguments_are_refused() -> None:
    for function in (_extents.merge, _extents.total):
        with pytest.raises(TypeError):
            function(None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="one is missing"):
            function(array("q", [1]))
    with pytest.raises(ValueError):
        _extents.merge(array("i", [1, 2]))
    with pytest.raises(ValueError, match="positive"):
        _extents.widen(array("q"), 0, 0, 9)
    with pytest.raises(ValueError, match="at least one byte"):
        _extents.from_bitmap(b"", 0, 0)
    with pytest.raises(ValueError, match="not negative"):
        _extents.from_bitmap(b"", 1, -1)


def test_nothing_is_a_set() -> None:
    nothing = array("q")
    assert not _extents.merge(nothing)
    assert not _extents.unite(nothing, nothing)
    assert not _extents.intersect(nothing, nothing)
    assert not _extents.subtract(nothing, array("q", [0, 1]))
    assert not _extents.invert(nothing, 5, 5)
    assert not _extents.invert(nothing, 6, 5)
    assert not _extents.from_bitmap(b"", 1, 0)
    assert _extents.total(nothing) == 0
    assert ExtentMap() == ExtentMap([(3, 3)])
    assert numpy.asarray(ExtentMap()).shape == (0, 2)
