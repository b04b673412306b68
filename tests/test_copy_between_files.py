# SPDX-License-Identifier: Apache-2.0
"""A copied file has the source's bytes, is as sparse as it can be, and replaces its target whole."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from disks import KiB, MiB, allocated, sparse_file

import diskcopy
from diskcopy.errors import Error

SIZES = [0, 1, 511, 512, 4095, 4096, 4097, 64 * KiB + 1, 3 * MiB + 700, 16 * MiB, 33 * MiB + 5]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("verify", [False, True], ids=["kernel", "verified"])
def test_bytes_are_the_same(tmp_path: Path, size: int, verify: bool) -> None:
    content = sparse_file(tmp_path / "a", size, size)
    report = diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"), verify=verify)
    assert (tmp_path / "b").read_bytes() == content
    assert report.size == size == report.data + report.zero + report.hole
    assert allocated(tmp_path / "b") <= allocated(tmp_path / "a")
    if verify:
        assert report.checksum == diskcopy.checksum(str(tmp_path / "a"))


def test_written_zeroes_become_holes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(8 * MiB) + b"x" * 4096 + bytes(8 * MiB))
    report = diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert report.data == 4096
    assert allocated(tmp_path / "b") == 4096
    diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "c"), detect_zeroes=False)
    assert allocated(tmp_path / "c") >= 16 * MiB
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_an_old_target_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    content = sparse_file(tmp_path / "a", 7, MiB)
    (tmp_path / "b").write_bytes(b"\xff" * 5 * MiB)
    (tmp_path / "b").chmod(0o640)
    (tmp_path / "link").symlink_to("b")
    diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "b").read_bytes() == content
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640


def test_preallocated_in_full(tmp_path: Path) -> None:
    content = sparse_file(tmp_path / "a", 3, 4 * MiB)
    diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"), preallocate="full")
    assert (tmp_path / "b").read_bytes() == content
    assert allocated(tmp_path / "b") >= 4 * MiB


@pytest.mark.root
def test_a_reflink_is_used_where_there_are_some(tmp_path: Path, mounted) -> None:
    folder = mounted("xfs", 512 * MiB)
    content = sparse_file(folder / "a", 9, 8 * MiB)
    report = diskcopy.copy(str(folder / "a"), str(folder / "b"))
    assert report.cloned
    assert (folder / "b").read_bytes() == content
    assert not diskcopy.copy(str(folder / "a"), str(folder / "c"), verify=True).cloned
    assert not diskcopy.copy(str(folder / "a"), str(folder / "e"), preallocate="full").cloned
    assert allocated(folder / "e") >= 8 * MiB
    assert not diskcopy.copy(str(folder / "a"), str(tmp_path / "d")).cloned
    assert (tmp_path / "d").read_bytes() == content


@pytest.mark.root
@pytest.mark.parametrize("kind", ["exfat", "btrfs", "tmpfs"])
def test_other_filesystems(tmp_path: Path, mounted, kind: str) -> None:
    """exfat has neither holes nor unnamed files; the copy is right all the same, in both directions."""
    folder = mounted(kind, 256 * MiB)
    content = sparse_file(tmp_path / "a", 11, 8 * MiB + 100)
    diskcopy.copy(str(tmp_path / "a"), str(folder / "b"))
    diskcopy.copy(str(folder / "b"), str(tmp_path / "c"))
    assert (folder / "b").read_bytes() == (tmp_path / "c").read_bytes() == content
    assert os.listdir(folder) == ["b"]
    assert allocated(tmp_path / "c") <= allocated(tmp_path / "a")


@pytest.mark.root
def test_no_space_left_says_how_much_is_missing_and_leaves_nothing(tmp_path: Path, mounted) -> None:
    folder = mounted("tmpfs", 4 * MiB)
    (tmp_path / "a").write_bytes(os.urandom(10 * MiB))
    (folder / "b").write_bytes(b"precious")
    with pytest.raises(Error, match=r"b: cannot write: no space left on device at offset \d+; up to .* more"):
        diskcopy.copy(str(tmp_path / "a"), str(folder / "b"))
    assert os.listdir(folder) == ["b"]
    assert (folder / "b").read_bytes() == b"precious"


@pytest.mark.root
@pytest.mark.parametrize("verify", [False, True], ids=["kernel", "verified"])
def test_onto_a_block_device_old_data_never_shows_through(tmp_path: Path, loop_device, verify: bool) -> None:
    """Holes, allocated zeroes and odd ends of the source are zero on a device that was full of 0xFF."""
    size = 20 * MiB + 700
    content = sparse_file(tmp_path / "a", 5, size)
    medium = tmp_path / "medium"
    medium.write_bytes(b"\xff" * 24 * MiB)
    device = loop_device(medium)
    diskcopy.copy(str(tmp_path / "a"), device, verify=verify)
    with open(device, "rb") as file:
        assert file.read(size) == content
        assert file.read(16) == b"\xff" * 16
    diskcopy.copy(device, str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes()[:size] == content


@pytest.mark.root
def test_a_device_that_is_too_small_is_refused_untouched(tmp_path: Path, loop_device) -> None:
    sparse_file(tmp_path / "a", 1, 9 * MiB)
    (tmp_path / "medium").write_bytes(b"\xff" * 8 * MiB)
    device = loop_device(tmp_path / "medium")
    with pytest.raises(
        Error, match=r"has 8388608 bytes and the disk needs 9437184; use a target at least 1048576"
    ):
        diskcopy.copy(str(tmp_path / "a"), device)
    assert (tmp_path / "medium").read_bytes() == b"\xff" * 8 * MiB


@pytest.mark.root
def test_qcow2_does_not_fit_onto_a_device_of_the_size_of_its_data(tmp_path: Path, loop_device) -> None:
    (tmp_path / "a").write_bytes(os.urandom(8 * MiB))
    (tmp_path / "medium").write_bytes(b"\xff" * 8 * MiB)
    device = loop_device(tmp_path / "medium")
    with pytest.raises(Error, match="has 8388608 bytes and the disk needs"):
        diskcopy.copy(str(tmp_path / "a"), device, target_format="qcow2")
    assert (tmp_path / "medium").read_bytes() == b"\xff" * 8 * MiB
    os.truncate(tmp_path / "a", 7 * MiB)
    diskcopy.copy(str(tmp_path / "a"), device, target_format="qcow2", verify=True)
    assert diskcopy.compare(device, str(tmp_path / "a")).same


@pytest.mark.root
def test_a_mounted_device_is_refused(tmp_path: Path, loop_device) -> None:
    sparse_file(tmp_path / "a", 1, MiB)
    (tmp_path / "medium").write_bytes(bytes(8 * MiB))
    device = loop_device(tmp_path / "medium")
    subprocess.run(["mke2fs", "-q", device], check=True)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", device, str(tmp_path / "mnt")], check=True)
    try:
        with pytest.raises(Error, match="is in use: mounted, or held by the system"):
            diskcopy.copy(str(tmp_path / "a"), device)
    finally:
        subprocess.run(["umount", str(tmp_path / "mnt")], check=True)
