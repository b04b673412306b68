# SPDX-License-Identifier: Apache-2.0
"""A file is read with its holes, written in place, and noticed when somebody else changes it."""

from __future__ import annotations

import os
import random
from array import array
from pathlib import Path

import pytest
from disks import write_sparse

from diskcopy.errors import Changed, Error, NotFound, Refused, SystemFailure, Unsupported
from diskcopy.storage.file import File
from diskcopy.storage.memory import Memory
from diskcopy.storage.null import Null


def test_writing_in_place(tmp_path: Path) -> None:
    """Against a disk in memory: the same writes and zeroes make the same bytes, and holes where they may."""
    rng = random.Random(3)
    path = tmp_path / "disk"
    content = write_sparse(path, 300_001, rng)
    twin = Memory(content)
    with File(str(path), writable=True) as file:
        for _ in range(200):
            offset = rng.randrange(len(content))
            length = rng.choice([0, 1, 4096, rng.randrange(60_000)])
            length = min(length, len(content) - offset)
            if rng.random() < 0.5:
                data = rng.randbytes(length)
                file.write(offset, data)
                twin.write(offset, data)
            else:
                punch = rng.random() < 0.5
                file.zero(offset, length, punch)
                twin.zero(offset, length, punch)
        file.flush()
        assert file.reread().read(0, len(content)) == twin.read(0, len(content))
        with pytest.raises(Unsupported):
            file.resize(5)
        file.zero(0, len(content))
        assert os.stat(path).st_blocks * 512 <= 8192, "the filesystem may keep a block at the unaligned end"
        file.zero(0, len(content), punch=False)
        assert file.read(0, len(content)) == bytes(len(content))
    assert path.stat().st_size == len(content)


def test_items_of_any_kind_are_bytes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(64))
    with File(str(path), writable=True) as file:
        file.write(8, array("q", [1, 2, 3]))
        items = array("q", [0] * 4)
        file.readinto(8, items)
    assert list(items) == [1, 2, 3, 0]


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"AB")
    with File(str(tmp_path / "disk")) as file:
        for call in (lambda: file.write(0, b"A"), lambda: file.zero(0, 1)):
            with pytest.raises(Unsupported, match="cannot be written"):
                call()
        with pytest.raises(Error, match="does not fit in 2 bytes"):
            file.read(1, 2)
        file.check_unchanged()


@pytest.mark.parametrize("change", ["written", "cut", "longer"])
def test_a_change_is_noticed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(9000))
    os.utime(path, (1, 1))
    with File(str(path)) as file:
        file.check_unchanged()
        if change == "written":
            with open(path, "r+b") as other:
                other.write(b"A")
        else:
            os.truncate(path, 5000 if change == "cut" else 10_000)
        with pytest.raises(Changed, match="was written to while it was read; stop"):
            file.check_unchanged()


def test_a_file_cut_short_is_told_with_its_end(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"A" * 9000)
    with File(str(path)) as file:
        os.truncate(path, 5000)
        for call in (lambda: file.read(0, 9000), lambda: list(file.extents(6000))):
            with pytest.raises(Error, match="ends early at offset 5000; somebody cut it short"):
                call()


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO that nobody writes to must not be waited for."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Refused, match="not a regular file"):
        File(str(tmp_path / "fifo"))
    with pytest.raises(Refused, match="not a regular file"):
        File(str(tmp_path))
    with pytest.raises(SystemFailure, match="is a directory"):
        File(str(tmp_path), writable=True)
    with pytest.raises(NotFound, match="no such file"):
        File(str(tmp_path / "missing"))


def test_two_names_of_one_file_are_one(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    (tmp_path / "other").touch()
    os.link(tmp_path / "disk", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("disk")
    known = {}
    for name in ("disk", "hard", "soft", "other"):
        with File(str(tmp_path / name)) as file:
            known[name] = file.identity()
    assert known["disk"] == known["hard"] == known["soft"]
    assert not known["disk"] & known["other"]


def test_null_takes_everything() -> None:
    with Null() as null:
        null.write(2**62, b"A" * 9)
        null.zero(0, 2**62)
        null.resize(0)
        null.flush()
        null.commit()
        with pytest.raises(Unsupported):
            null.read(0, 1)
