# SPDX-License-Identifier: Apache-2.0
"""compare says of any two disks what comparing their bytes says, and equal checksums are equal disks."""

from __future__ import annotations

import random

import pytest
from disks import KiB, picture
from hypothesis import given
from hypothesis import strategies as st

from diskcopy.engine.compare import Comparison, compare
from diskcopy.engine.verify import checksum
from diskcopy.layers.fail import Fail
from diskcopy.storage.memory import Memory

MiB = 1 << 20

# Letters as in `disks.picture`; few of them, so that disks are often alike for a long way.
DRAWINGS = st.text("AB-0z", max_size=40)
UNITS = st.sampled_from([512, 4 * KiB, 64 * KiB, 1 * MiB])


def expected(left: bytes, right: bytes, strict: bool) -> int | None:
    """The answer, from the bytes."""
    shared = min(len(left), len(right))
    if left[:shared] != right[:shared]:
        return next(n for n in range(shared) if left[n] != right[n])
    rest = left[shared:] + right[shared:]
    if strict:
        return shared if rest else None
    tail = rest.lstrip(b"\0")
    return shared + len(rest) - len(tail) if tail else None


@given(DRAWINGS, DRAWINGS, UNITS, st.booleans(), st.integers(1, 4))
def test_any_two_disks(left: str, right: str, unit: int, strict: bool, workers: int) -> None:
    a, b = picture(left, unit), picture(right, unit)
    offset = expected(a.content, b.content, strict)
    found = compare(a, b, strict=strict, workers=workers)
    assert found == Comparison(offset is None, offset, len(a.content), len(b.content))
    same = a.content == b.content
    assert (checksum(a, workers=workers) == checksum(b, workers=workers)) is same


@pytest.mark.parametrize("seed", range(30))
def test_one_bit(seed: int) -> None:
    """Anywhere, the last byte of an odd size included, and whatever the other image knows of holes."""
    rng = random.Random(seed)
    drawing = "".join(rng.choices("AB-0z", k=rng.randrange(1, 60)))
    disk = picture(drawing, rng.choice([512, 4096, 777 * KiB]))
    other = Memory(disk.content)
    del other.content[len(other.content) - rng.randrange(len(other.content) // 2) :]
    other.size = len(other.content)
    at = rng.choice([0, other.size - 1, rng.randrange(other.size)])
    before = checksum(other)
    other.content[at] ^= 1 << rng.randrange(8)
    assert checksum(other) != before
    assert compare(disk, other, workers=2).offset == compare(other, disk).offset == at


def test_what_cannot_be_read_is_an_error_not_an_answer() -> None:
    disk = picture("A" * 600)
    for broken in (Fail(disk, "read", at=len(disk.content) - 1), Fail(disk, "find data")):
        with pytest.raises(OSError):
            compare(broken, Memory(disk.content))
        with pytest.raises(OSError):
            checksum(broken)
