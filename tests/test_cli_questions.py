# SPDX-License-Identifier: Apache-2.0
"""`map`, `info`, `measure`, `compare` and `checksum` answer people and programs alike."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, diskcopy, fails
from disks import MiB, sparse_file

import diskcopy as library


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    sparse_file(tmp_path / "disk.raw", 2, 5 * MiB + 512)
    return tmp_path / "disk.raw"


def many_extents(path: Path, count: int) -> None:
    """A file with `count` extents: 4 KiB of data after every 4 KiB of hole."""
    with open(path, "wb") as file:
        file.truncate(count * 4096)
        for number in range(1, count, 2):
            os.pwrite(file.fileno(), b"data", number * 4096)


def test_map_prints_what_the_library_finds(disk: Path) -> None:
    found = list(library.map(str(disk)))
    assert len(found) > 2
    head, *lines = diskcopy("map", disk).stdout.splitlines()
    assert head.split() == ["start", "length", "type"]
    kinds = {"data": (False, False), "zero": (True, False), "hole": (True, True), "data,hole": (False, True)}
    rows = [line.split() for line in lines]
    assert [(int(a), int(b), *kinds[kind]) for a, b, kind in rows] == found
    answer = json.loads(diskcopy("map", "--json", disk).stdout)
    assert answer == [{**e._asdict(), "data": e.data} for e in found]


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 9000])
def test_map_of_many_extents_is_whole(tmp_path: Path, count: int) -> None:
    many_extents(tmp_path / "disk", count)
    assert len(diskcopy("map", tmp_path / "disk").stdout.splitlines()) == count + 1
    text = diskcopy("map", "--json", tmp_path / "disk").stdout
    assert len(json.loads(text)) == count
    assert len(text.splitlines()) == max(1, count)


def test_map_ends_quietly_where_nobody_reads_on(tmp_path: Path) -> None:
    many_extents(tmp_path / "disk", 50_000)
    with subprocess.Popen(
        [*COMMAND, "map", str(tmp_path / "disk")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait()


def test_info_for_people_and_programs(disk: Path) -> None:
    text = diskcopy("info", disk).stdout
    assert text.splitlines()[0] == f"{disk}: a disk of 5.0 MiB ({5 * MiB + 512} bytes)"
    assert f"  raw: {disk}" in text.splitlines()
    assert f"  file: {disk}" in text.splitlines()
    assert json.loads(diskcopy("info", "--json", disk).stdout) == library.info(str(disk))


def test_measure_for_people_and_programs(disk: Path) -> None:
    found = library.measure(str(disk), "raw")
    assert json.loads(diskcopy("measure", "-O", "raw", "--json", disk).stdout) == found._asdict()
    text = diskcopy("measure", "-O", "raw", disk).stdout
    assert [line.split(":")[0] for line in text.splitlines()] == ["required", "fully allocated"]
    assert f"({found.fully_allocated} bytes)" in text


def test_compare_says_same_and_where_not(disk: Path) -> None:
    other = disk.with_name("other.raw")
    content = bytearray(disk.read_bytes())
    other.write_bytes(content)
    done = diskcopy("compare", disk, other)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{disk} and {other} are the same\n", "")

    content[3 * MiB + 7] ^= 1
    other.write_bytes(content)
    done = diskcopy("compare", disk, other)
    assert (done.returncode, done.stdout) == (1, f"{disk} and {other} differ at offset {3 * MiB + 7}\n")
    done = diskcopy("compare", "--json", disk, other)
    assert done.returncode == 1
    assert json.loads(done.stdout)["offset"] == 3 * MiB + 7


def test_compare_of_two_sizes(disk: Path) -> None:
    larger = disk.with_name("larger.raw")
    larger.write_bytes(disk.read_bytes() + bytes(1000))
    done = diskcopy("compare", disk, larger)
    assert done.returncode == 0
    assert "zeroes at the end of the larger one" in done.stdout
    done = diskcopy("compare", "--strict", disk, larger)
    assert done.returncode == 1
    assert f"differ at offset {5 * MiB + 512}, where the smaller one ends" in done.stdout


def test_compare_in_trouble_exits_with_two(disk: Path) -> None:
    assert "no such file" in fails(2, "compare", disk, disk.with_name("missing"))


def test_checksum_prints_the_line_of_sha256sum(disk: Path) -> None:
    digest = library.checksum(str(disk))
    assert diskcopy("checksum", disk).stdout == f"{digest}  {disk}\n"
    answer = json.loads(diskcopy("checksum", "--json", disk).stdout)
    assert answer == {"location": str(disk), "checksum": digest}


def test_checksum_escapes_names_as_sha256sum_does(tmp_path: Path) -> None:
    name = tmp_path / "two\nlines\\"
    name.write_bytes(b"disk")
    ours = diskcopy("checksum", name).stdout
    theirs = subprocess.run(["sha256sum", name], capture_output=True, text=True, check=True).stdout
    assert (ours[0], ours[1 + 64 :]) == (theirs[0], theirs[1 + 64 :])


@pytest.mark.parametrize("command", ["map", "info", "checksum"])
def test_errors_are_one_line(tmp_path: Path, command: str) -> None:
    assert "no such file" in fails(1, command, tmp_path / "missing")
    assert "is a directory" in fails(1, command, tmp_path)


@pytest.mark.parametrize("command", ["map", "checksum", "compare"])
def test_streams_are_refused_where_a_disk_is_needed(tmp_path: Path, command: str) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    second = [tmp_path / "disk"] if command == "compare" else []
    assert "stream" in fails(2 if command == "compare" else 1, command, "-", *second)
