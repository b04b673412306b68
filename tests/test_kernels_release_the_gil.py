# SPDX-License-Identifier: Apache-2.0
"""While a kernel works, other threads of the program do."""

from __future__ import annotations

import os
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import piece

from diskcopy import _extents, _fd, _zero

MiB = 1 << 20


def steps_beside(work: Callable[[], object], seconds: float) -> int:
    """How often another thread came to run during calls of `work`, up to ten times."""
    steps = 0
    started, stop = threading.Event(), threading.Event()

    def other() -> None:
        nonlocal steps
        started.set()
        while not stop.is_set():
            steps += 1
            time.sleep(0)

    thread = threading.Thread(target=other)
    interval = sys.getswitchinterval()
    thread.start()
    started.wait()
    # The interpreter takes the lock from nobody by itself; only who releases it lets others in.
    sys.setswitchinterval(1000)
    try:
        before = steps
        deadline = time.monotonic() + seconds
        while steps < before + 10 and time.monotonic() < deadline:
            work()
        return steps - before
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


def test_the_measure_sees_a_held_lock() -> None:
    """Otherwise the tests below could not fail."""
    assert steps_beside(lambda: sum(range(100_000)), 0.3) <= 1


@pytest.mark.parametrize(
    "name", ["is_zero", "data_runs", "first_difference", "merge", "from_bitmap", "copy_pieces"]
)
def test_another_thread_goes_on(name: str, tmp_path: Path) -> None:
    zeroes = bytearray(64 * MiB)
    pairs = array("q", range(2_000_000, 0, -1))
    path = tmp_path / "source"
    path.write_bytes(bytes(16 * MiB))
    source, target = os.open(path, os.O_RDONLY), os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    work: dict[str, Callable[[], object]] = {
        "is_zero": lambda: _zero.is_zero(zeroes),
        "data_runs": lambda: _zero.data_runs(zeroes),
        "first_difference": lambda: _zero.first_difference(zeroes, zeroes),
        "merge": lambda: _extents.merge(pairs),
        "from_bitmap": lambda: _extents.from_bitmap(zeroes, 1, 0),
        "copy_pieces": lambda: _fd.copy_pieces(
            source, target, piece(0, 16 * MiB), bytearray(MiB), 4096, False, False
        ),
    }
    try:
        assert steps_beside(work[name], 20) >= 10
    finally:
        os.close(source)
        os.close(target)
