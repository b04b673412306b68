# SPDX-License-Identifier: Apache-2.0
"""data_ranges tells what qemu-img map tells, and the extents of a file hold all of its data."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import write_sparse

from diskcopy import _fd
from diskcopy.storage.file import File


def walk(path: Path, start: int, end: int, most: int) -> list[tuple[int, int]]:
    """All ranges, asked for `most` at a time."""
    found: list[tuple[int, int]] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        while start < end:
            pairs, reached = _fd.data_ranges(fd, start, end, most)
            assert len(pairs) <= 2 * most
            assert reached > start
            found += zip(pairs[::2], pairs[1::2], strict=True)
            start = reached
    finally:
        os.close(fd)
    assert start == end
    return found


def qemu_map(path: Path) -> list[tuple[int, int]]:
    command = ["qemu-img", "map", "--output=json", "-f", "raw", str(path)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    ranges: list[tuple[int, int]] = []
    for item in told:
        if item["data"]:
            if ranges and ranges[-1][1] == item["start"]:
                item["start"] = ranges.pop()[0]
                item["length"] += 0
            end = item["offset"] + item["length"]
            ranges.append((item["start"], end))
    return ranges


def check(path: Path, content: bytes, rng: random.Random) -> None:
    size = len(content)
    whole = walk(path, 0, size, 1000)
    assert whole == walk(path, 0, size, 1)
    for _ in range(5):
        start, end = sorted(rng.randrange(size + 1) for _ in range(2))
        part = [(max(a, start), min(b, end)) for a, b in whole if a < end and b > start]
        assert walk(path, start, end, rng.randrange(1, 5)) == part
    position = 0
    for start, end in [*whole, (size, size)]:
        assert content[position:start].count(0) == start - position, "what is left out is zero"
        position = end
    # qemu-img rounds the end of the last range up to a sector.
    assert [(start, min(end, size)) for start, end in qemu_map(path)] == whole
    with File(str(path)) as file:
        extents = list(file.extents())
        assert [(item.start, item.end) for item in extents if item.data] == whole
        assert sum(item.length for item in extents) == size


@pytest.mark.parametrize("seed", range(4))
def test_random_sparse_files(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    content = write_sparse(tmp_path / "disk", rng.choice([4096, 100_001, 2_000_000]), rng)
    check(tmp_path / "disk", content, rng)


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "size"), [("exfat", 40 << 20), ("xfs", 320 << 20), ("btrfs", 120 << 20), ("tmpfs", 9 << 20)]
)
def test_random_sparse_files_elsewhere(mounted: Callable[[str, int], Path], kind: str, size: int) -> None:
    rng = random.Random(kind)
    path = mounted(kind, size) / "disk"
    check(path, write_sparse(path, 1_234_567, rng), rng)


def test_a_disk_of_eight_tebibytes_is_asked_once(tmp_path: Path) -> None:
    with open(tmp_path / "disk", "wb") as file:
        file.truncate(8 << 40)
    assert walk(tmp_path / "disk", 0, 8 << 40, 1) == []
    fd = os.open(tmp_path / "disk", os.O_RDONLY)
    try:
        pairs, reached = _fd.data_ranges(fd, 0, 8 << 40, 1)
    finally:
        os.close(fd)
    assert (list(pairs), reached) == ([], 8 << 40)
