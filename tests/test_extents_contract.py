# SPDX-License-Identifier: Apache-2.0
"""`normalised` gives exactly the asked range, ascending, contiguous, neighbours different, or raises Corrupt.

Pictures: one letter is one byte of a disk, by its facts: A data, 0 zero, - zero and hole,
a data that takes no space.
"""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskcopy.errors import Corrupt
from diskcopy.extents import Extent, ExtentMap, normalised

FACTS = {"A": (False, False), "0": (True, False), "-": (True, True), "a": (False, True)}
LETTER = {facts: letter for letter, facts in FACTS.items()}


def extents(picture: str, start: int = 0) -> list[Extent]:
    """The extents of a picture, one per '|'-separated piece and run of equal letters."""
    result = []
    for piece in picture.split("|"):
        for letter, run in groupby(piece):
            length = len(list(run))
            result.append(Extent(start, length, *FACTS[letter]))
            start += length
    return result


def picture(items: list[Extent]) -> str:
    return "".join(LETTER[item.zero, item.hole] * item.length for item in items)


@pytest.mark.parametrize(
    ("given_", "start", "end", "expected"),
    [
        ("A0-A", 0, 4, "A0-A"),
        ("AA|AA|00", 0, 6, "AAAA00"),
        ("AAAA0000----", 2, 10, "AA0000--"),
        ("AAAA0000----", 5, 7, "00"),
        ("00|--|00", 0, 6, "00--00"),
        ("Aa", 0, 2, "Aa"),
        ("AAAA", 2, 2, ""),
        ("AA00", 4, 4, ""),
        ("A|0|A", 1, 2, "0"),
    ],
)
def test_pictures(given_: str, start: int, end: int, expected: str) -> None:
    result = list(normalised(extents(given_), start, end))
    assert picture(result) == expected
    assert result == extents(expected, start) if expected else result == []


@given(st.text("A0-a|", max_size=30), st.integers(0, 30), st.integers(0, 30))
def test_any_contiguous_extents(given_: str, one: int, other: int) -> None:
    whole = given_.replace("|", "")
    start, end = sorted((min(one, len(whole)), min(other, len(whole))))
    result = list(normalised(extents(given_), start, end))
    assert picture(result) == whole[start:end]
    assert all(left.end == right.start and left[2:] != right[2:] for left, right in pairwise(result))
    assert all(item.length > 0 for item in result)
    assert not result or (result[0].start, result[-1].end) == (start, end)
    assert ExtentMap.data_of(result) == ExtentMap((n, n + 1) for n in range(start, end) if whole[n] in "Aa")


@given(st.text("A0-a|", max_size=12).map(extents), st.data())
def test_disorder_is_corrupt_or_harmless(items: list[Extent], data: st.DataObject) -> None:
    """Whatever comes in: either the contract holds for what comes out, or Corrupt is raised."""
    items = data.draw(st.permutations(items))
    position = 0
    try:
        for item in normalised(items, 0, sum(item.length for item in items)):
            assert item.start == position
            assert item.length > 0
            position = item.end
    except Corrupt:
        return
    assert position == sum(item.length for item in items)


@pytest.mark.parametrize(
    ("items", "offset"),
    [
        ([Extent(0, 4, False, False), Extent(5, 5, False, False)], 4),
        ([Extent(0, 4, False, False), Extent(0, 4, True, False)], 4),
        ([Extent(2, 8, False, False)], 0),
        ([Extent(0, 9, False, False)], 9),
        ([], 0),
        ([Extent(0, 4, False, False), Extent(4, -2, False, False), Extent(4, 6, False, False)], 4),
    ],
)
def test_gaps_steps_back_and_early_ends_are_corrupt(items: list[Extent], offset: int) -> None:
    with pytest.raises(Corrupt) as caught:
        list(normalised(items, 0, 10, "disk"))
    assert caught.value.offset == offset
    assert caught.value.name == "disk"


def test_extents_come_lazily() -> None:
    """Only one more than what was asked for is taken, so a disk may have any number."""

    def endless():  # type: ignore[no-untyped-def]
        start = 0
        while True:
            yield Extent(start, 1, start % 2 == 0, False)
            start += 1

    walk = normalised(endless(), 0, 2**62)
    assert [next(walk).start for _ in range(3)] == [0, 1, 2]
