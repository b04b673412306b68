# SPDX-License-Identifier: Apache-2.0
"""`measure` says the size of the image file to the byte, and what QEMU says but for metadata."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from qcow2_writing import GiB, KiB, MiB, finish, new_image

from diskcopy.errors import Unsupported, UsageError
from diskcopy.formats.qcow2.measure import measure


def ranges(rng: random.Random, size: int) -> list[tuple[int, int]]:
    """Ascending ranges, some of which meet in a cluster, touch, or are empty."""
    found = []
    position = 0
    while position < size:
        start = min(size, position + rng.choice([0, 1, 4 * KiB, 100 * KiB, size // 20]))
        end = min(size, start + rng.choice([0, 1, 4 * KiB, 64 * KiB, 300 * KiB]))
        found.append((start, end))
        position = max(end, position + 1)
        if rng.random() < 0.1:
            position += size // 10
    return found


@pytest.mark.parametrize("size", [0, 1, 512, 64 * KiB + 1, 30 * MiB, 1100 * MiB])
@pytest.mark.parametrize("cluster_size", [512, 4 * KiB, 64 * KiB, 2 * MiB])
def test_required_is_the_file_that_is_written(tmp_path: Path, size: int, cluster_size: int) -> None:
    rng = random.Random(size ^ cluster_size)
    data = ranges(rng, size)[:2000]
    writer = new_image(tmp_path / "q", size, cluster_size=cluster_size)
    for start, end in data:
        writer.write(start, b"x" * (end - start))
    finish(writer)
    assert measure(size, iter(data), cluster_size=cluster_size).required == os.path.getsize(tmp_path / "q")


@pytest.mark.parametrize("size", [0, 1, 5 * MiB + 1, 40 * MiB])
@pytest.mark.parametrize("cluster_size", [512, 64 * KiB])
@pytest.mark.parametrize("preallocate", ["metadata", "full"])
def test_preallocated(tmp_path: Path, size: int, cluster_size: int, preallocate: str) -> None:
    finish(new_image(tmp_path / "q", size, cluster_size=cluster_size, preallocate=preallocate))
    said = measure(size, [], cluster_size=cluster_size, preallocate=preallocate)
    about = os.stat(tmp_path / "q")
    assert said.required == said.fully_allocated == about.st_size
    if preallocate == "full":
        assert about.st_blocks * 512 >= size


def test_fully_allocated(tmp_path: Path) -> None:
    writer = new_image(tmp_path / "q", 33 * MiB + 5, cluster_size=4 * KiB)
    writer.write(0, b"x" * (33 * MiB + 5))
    finish(writer)
    assert measure(33 * MiB + 5, [], cluster_size=4 * KiB).fully_allocated == os.path.getsize(tmp_path / "q")


@pytest.mark.parametrize("size", [512, 10 * MiB, GiB, 3 << 40, 1 << 45])
@pytest.mark.parametrize("cluster_size", [64 * KiB, 2 * MiB])
def test_qemu_says_the_same(size: int, cluster_size: int) -> None:
    options = ["--size", str(size), "-o", f"cluster_size={cluster_size}"]
    done = subprocess.run(
        ["qemu-img", "measure", "--output=json", "-O", "qcow2", *options], capture_output=True, check=True
    )
    qemu = json.loads(done.stdout)["fully-allocated"]
    ours = measure(size, [], cluster_size=cluster_size).fully_allocated
    # QEMU counts the disk's last cluster in part, and rounds its tables elsewhere.
    assert abs(ours - qemu) <= 4 * cluster_size + qemu // 1_000_000


def test_time_follows_the_ranges_and_not_the_disk() -> None:
    began = time.process_time()
    measure(1 << 60, [(0, 1 << 59)], cluster_size=2 * MiB)
    measure(1 << 45, ((at << 30, (at << 30) + 4096) for at in range(30_000)))
    assert time.process_time() - began < 1


def test_what_cannot_be_made_cannot_be_measured() -> None:
    with pytest.raises(Unsupported, match="use clusters of 1024"):
        measure(129 * GiB, [], cluster_size=512)
    with pytest.raises(UsageError, match="not a cluster size"):
        measure(0, [], cluster_size=100)
    with pytest.raises(UsageError, match="not a preallocation"):
        measure(0, [], preallocate="yes")
