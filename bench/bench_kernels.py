# SPDX-License-Identifier: Apache-2.0
"""How fast are the kernels: zero scan against memcmp, extents algebra, the walk over holes, one-call copies?

Run by `python -m pytest bench/bench_kernels.py`. The figure to reach: `is_zero` of memory that
is not in cache takes no longer than memcmp of its two halves, which reads the same bytes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diskcopy import _extents, _fd, _zero

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
RANGES = 1_000_000

memcmp = ctypes.CDLL(None).memcmp
memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


@pytest.fixture(scope="module")
def zeroes() -> Iterator[memoryview]:
    """1 GiB of zero memory with pages of its own, far more than any cache holds."""
    with mmap.mmap(-1, GiB) as memory:
        view = memoryview(memory)
        for fill in (b"\1" * MiB, bytes(MiB)):
            for offset in range(0, GiB, MiB):
                view[offset : offset + MiB] = fill
        yield view
        view.release()


@pytest.fixture(params=_zero.kernels())
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _zero.kernel()
    _zero.use_kernel(request.param)
    yield request.param
    _zero.use_kernel(before)


def halves(view: memoryview) -> Callable[[], int]:
    """memcmp of the halves of a piece of memory."""
    first = ctypes.c_char.from_buffer(view)
    start, half = ctypes.addressof(first), view.nbytes // 2
    del first
    return lambda: memcmp(start, start + half, half)


def in_pieces(view: memoryview, size: int, call: Callable[[memoryview], object]) -> None:
    for offset in range(0, view.nbytes, size):
        call(view[offset : offset + size])


# --- zero scan --------------------------------------------------------------------------


def test_memory_memcmp(benchmark: Any, zeroes: memoryview) -> None:
    assert benchmark.pedantic(halves(zeroes), rounds=9) == 0


def test_memory_is_zero(benchmark: Any, zeroes: memoryview, kernel: str) -> None:
    assert benchmark.pedantic(_zero.is_zero, (zeroes,), rounds=9)


def test_memory_data_runs(benchmark: Any, zeroes: memoryview, kernel: str) -> None:
    assert not benchmark.pedantic(_zero.data_runs, (zeroes,), rounds=9)


def test_memory_data_runs_by_256k(benchmark: Any, zeroes: memoryview, kernel: str) -> None:
    benchmark.pedantic(in_pieces, (zeroes, 256 * KiB, _zero.data_runs), rounds=9)


def test_memory_ratio(zeroes: memoryview) -> None:
    """The scan and memcmp in turn: the ratio of the bests."""
    scan, compare = (lambda: _zero.is_zero(zeroes)), halves(zeroes)
    best = {scan: float("inf"), compare: float("inf")}
    for _ in range(11):
        for call in best:
            start = time.perf_counter()
            call()
            best[call] = min(best[call], time.perf_counter() - start)
    print(f"\nzero scan ({_zero.kernel()}) / memcmp: {best[scan] / best[compare]:.3f}")
    assert best[scan] <= best[compare]


def test_cache_memcmp(benchmark: Any) -> None:
    buffer = bytearray(256 * KiB)
    assert benchmark(halves(memoryview(buffer))) == 0


def test_cache_is_zero(benchmark: Any, kernel: str) -> None:
    assert benchmark(_zero.is_zero, bytearray(256 * KiB))


@pytest.mark.parametrize(
    "picture", ["data", "every other block", "every 16th block", "last byte of each block"]
)
def test_cache_data_runs(benchmark: Any, kernel: str, picture: str) -> None:
    buffer = bytearray(256 * KiB)
    step = {"every other block": 2, "every 16th block": 16}.get(picture, 1) * 4 * KiB
    for offset in range(4095 if picture.startswith("last") else 0, len(buffer), step):
        buffer[offset] = 1
    assert benchmark(_zero.data_runs, buffer)


# --- extents ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranges() -> tuple[array[int], array[int]]:
    """Two sets of a million ranges each that overlap in part."""
    rng = random.Random(1)
    sets = []
    for _ in range(2):
        position, pairs = 0, array("q")
        for _ in range(RANGES):
            position += rng.randrange(1, 65_536)
            pairs.append(position)
            position += rng.randrange(1, 65_536)
            pairs.append(position)
        sets.append(pairs)
    return sets[0], sets[1]


@pytest.mark.parametrize("name", ["unite", "intersect", "subtract"])
def test_a_million_ranges(benchmark: Any, ranges: tuple[array[int], array[int]], name: str) -> None:
    assert benchmark.pedantic(getattr(_extents, name), ranges, rounds=7)


def test_a_million_ranges_merge_sorted(benchmark: Any, ranges: tuple[array[int], array[int]]) -> None:
    assert benchmark.pedantic(_extents.merge, (ranges[0],), rounds=7) == ranges[0]


def test_a_million_ranges_merge_unsorted(benchmark: Any, ranges: tuple[array[int], array[int]]) -> None:
    assert benchmark.pedantic(_extents.merge, (ranges[0] + ranges[1],), rounds=7)


def test_a_million_ranges_invert(benchmark: Any, ranges: tuple[array[int], array[int]]) -> None:
    assert benchmark.pedantic(_extents.invert, (ranges[0], 0, 1 << 62), rounds=7)


def test_a_bitmap_of_a_million_ranges(benchmark: Any) -> None:
    pairs = benchmark.pedantic(_extents.from_bitmap, (b"\x55" * (RANGES // 4), 4096, 0), rounds=7)
    assert len(pairs) == 2 * RANGES


# --- files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100,000 blocks of data, each after a hole."""
    path = tmp_path_factory.mktemp("bench") / "scattered"
    with open(path, "wb") as file:
        for n in range(100_000):
            os.pwrite(file.fileno(), b"A" * 4096, n * 8192)
    return path


def test_walk_of_100k_extents(benchmark: Any, scattered: Path) -> None:
    fd = os.open(scattered, os.O_RDONLY)
    size = os.fstat(fd).st_size
    pairs, _ = benchmark.pedantic(_fd.data_ranges, (fd, 0, size, 200_000), rounds=7)
    os.close(fd)
    assert len(pairs) == 200_000


@pytest.mark.parametrize("content", ["data", "zeroes", "every other block"])
def test_copy_of_256m(benchmark: Any, tmp_path: Path, content: str) -> None:
    """From the page cache into a new file, without waiting for the disk."""
    block = {"data": b"A" * 8192, "zeroes": bytes(8192), "every other block": b"A" * 4096 + bytes(4096)}[
        content
    ]
    (tmp_path / "source").write_bytes(block * (256 * MiB // 8192))
    source = os.open(tmp_path / "source", os.O_RDONLY)
    buffer = bytearray(MiB)
    pieces = array("q", [0, 256 * MiB, 0])

    def fresh() -> tuple[tuple[object, ...], dict[str, object]]:
        target = os.open(tmp_path, os.O_RDWR | os.O_TMPFILE)
        os.ftruncate(target, 256 * MiB)
        return (target,), {}

    def copy(target: int) -> None:
        *moved, failure = _fd.copy_pieces(source, target, pieces, buffer, 4096, True, True)
        os.close(target)
        assert failure is None
        assert sum(moved) == 256 * MiB

    benchmark.pedantic(copy, setup=fresh, rounds=5)
    os.close(source)
