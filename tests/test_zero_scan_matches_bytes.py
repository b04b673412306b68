# SPDX-License-Identifier: Apache-2.0
"""Every zero scan of this processor answers as the plain loop over bytes does, wherever the buffer begins."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from diskcopy import _zero

PAGE = 4096


@pytest.fixture(params=_zero.kernels())
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _zero.kernel()
    _zero.use_kernel(request.param)
    yield request.param
    _zero.use_kernel(before)


def runs_of(data: bytes, granularity: int) -> list[int]:
    """The slow, obvious answer: block by block."""
    runs: list[int] = []
    for start in range(0, len(data), granularity):
        block = data[start : start + granularity]
        if any(block):
            if runs and runs[-1] == start:
                runs[-1] = start + len(block)
            else:
                runs += [start, start + len(block)]
    return runs


def test_every_kernel_of_the_build_is_tested() -> None:
    """A kernel that is not listed here would go untested."""
    assert "portable" in _zero.kernels()
    assert set(_zero.kernels()) <= set(_zero.NAMES)
    assert _zero.kernel() == _zero.kernels()[0]


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="no zero scan called 'avx1024'"):
        _zero.use_kernel("avx1024")
    assert _zero.kernel() in _zero.kernels()


def test_one_byte_anywhere_is_found(kernel: str) -> None:
    """Small sizes, all starts within a line, a byte at each end and around what must not be looked at."""
    memory = bytearray(512)
    view = memoryview(memory)
    for start in range(1, 66, 7):
        memory[start - 1] = 1
        for size in range(301):
            piece = view[start : start + size]
            memory[start + size] = 1
            assert _zero.is_zero(piece), (start, size)
            memory[start + size] = 0
            for at in {0, size // 3, size - 9, size - 1} & set(range(size)):
                memory[start + at] = 0x80
                assert not _zero.is_zero(piece), (start, size, at)
                memory[start + at] = 0
        memory[start - 1] = 0


@pytest.mark.parametrize(
    "around", [4096, 8192, 16 << 10, 32 << 10, 64 << 10, 256 << 10, 512 << 10, 800 << 10]
)
def test_one_byte_around_the_borders_of_windows_is_found(kernel: str, around: int) -> None:
    """The scan changes its step as zeroes go on; a byte just before or after each change counts."""
    memory = bytearray(around + 3 * PAGE)
    view = memoryview(memory)
    for start in (0, 1, 63):
        for size in range(around - 2, around + 131, 33):
            piece = view[start : start + size]
            assert _zero.is_zero(piece)
            for at in {0, 1, around // 4 - 1, around // 4, around // 2, around * 3 // 4, size - 2, size - 1}:
                memory[start + at] = 1
                assert not _zero.is_zero(piece), (start, size, at)
                assert list(_zero.data_runs(piece, 1)) == [at, at + 1]
                memory[start + at] = 0


@pytest.mark.parametrize("granularity", [1, 7, 64, 512, 4096, 65536, 1 << 20])
def test_runs_match_block_by_block(kernel: str, granularity: int) -> None:
    rng = random.Random(granularity)
    memory = bytearray(600_000)
    for _ in range(12):
        size = rng.choice([rng.randrange(300), rng.randrange(10_000), rng.randrange(590_000)])
        if granularity == 1:
            size %= 20_000
        start = rng.randrange(100)
        memory[:] = bytes(len(memory))
        memory[:start] = b"\xff" * start
        memory[start + size :] = b"\xff" * (len(memory) - start - size)
        for _ in range(rng.randrange(12)):
            if size:
                at = start + rng.randrange(size)
                length = min(rng.choice([1, 1, 9, 4096, 40_000]), start + size - at)
                memory[at : at + length] = rng.randbytes(length)
        piece = memoryview(memory)[start : start + size]
        assert list(_zero.data_runs(piece, granularity)) == runs_of(bytes(piece), granularity)


def test_many_short_runs_fit(kernel: str) -> None:
    """The result has room for the worst case: every other block is data, the last one short."""
    for blocks in range(1, 12):
        for short in (0, 1, 3):
            for first in (b"A", b"\0"):
                other = b"\0" if first == b"A" else b"A"
                data = b"".join((first if n % 2 == 0 else other) * 4 for n in range(blocks)) + b"A" * short
                assert list(_zero.data_runs(data, 4)) == runs_of(data, 4)


def test_the_largest_granularity_is_one_block() -> None:
    assert list(_zero.data_runs(b"\0\0A", 2**64 - 1)) == [0, 3]
    assert list(_zero.data_runs(b"\0\0\0", 2**63)) == []


def test_nothing_is_zero() -> None:
    assert _zero.is_zero(b"")
    assert list(_zero.data_runs(b"", 4096)) == []
    assert _zero.first_difference(b"", b"") == -1


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        _zero.is_zero(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _zero.data_runs(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _zero.first_difference(b"", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one byte"):
        _zero.data_runs(b"A", 0)
    with pytest.raises(ValueError, match="two lengths"):
        _zero.first_difference(b"A", b"AB")


def test_the_first_difference_is_found() -> None:
    left = bytearray(random.Random(5).randbytes(9000))
    for size in [*range(0, 260, 13), 4095, 4096, 4097, 8192, 9000]:
        assert _zero.first_difference(left[:size], left[:size]) == -1
        for at in {0, size // 2, size - 2, size - 1, 4095, 4096} & set(range(size)):
            right = left[:size]
            right[at] ^= 1
            right[-1] ^= at != size - 1
            assert _zero.first_difference(left[:size], right) == at
