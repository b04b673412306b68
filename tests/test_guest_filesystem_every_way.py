# SPDX-License-Identifier: Apache-2.0
"""A real guest disk, deleted files and all, is the same disk after each way of copying it."""

import subprocess
from pathlib import Path

import guest_disk
import pytest
from guest_disk import GuestDisk

import diskcopy

pytestmark = pytest.mark.xdist_group("guest")

# Target format and compression, and those of the image that is copied: None is the guest disk itself.
WAYS = {
    "raw to raw": ("raw", None, None),
    "raw to qcow2": ("qcow2", None, None),
    "raw to zlib": ("qcow2", "zlib", None),
    "raw to zstd": ("qcow2", "zstd", None),
    "qcow2 to zlib": ("qcow2", "zlib", ("qcow2", None)),
    "qcow2 to zstd": ("qcow2", "zstd", ("qcow2", None)),
    "qcow2 to raw": ("raw", None, ("qcow2", None)),
    "zlib to raw": ("raw", None, ("qcow2", "zlib")),
    "zstd to raw": ("raw", None, ("qcow2", "zstd")),
    "zlib to zstd": ("qcow2", "zstd", ("qcow2", "zlib")),
}


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> GuestDisk:
    return guest_disk.build(tmp_path_factory.mktemp("guest") / "guest.raw")


def qemu_img(*words: str | Path) -> str:
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"qemu-img {' '.join(map(str, words))}: {done.stdout}{done.stderr}"
    return done.stdout


def as_raw(image: Path, format: str) -> Path:
    """The disk of `image` as a raw file, by qemu's hand."""
    if format == "raw":
        return image
    raw = image.with_suffix(".by-qemu.raw")
    qemu_img("convert", "-f", format, "-O", "raw", image, raw)
    return raw


def test_the_guest_disk_is_what_it_says(guest: GuestDisk, tmp_path: Path) -> None:
    guest_disk.check_filesystem(guest.path)
    assert guest_disk.read_files(guest.path, list(guest.files), tmp_path / "out") == guest.files
    disk = guest.path.read_bytes()
    assert all(content[: 1 << 16] in disk for content in guest.deleted)
    facts = {(extent.zero, extent.hole) for extent in diskcopy.map(str(guest.path))}
    assert facts == {(False, False), (True, True)}


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_the_same_disk(way: str, guest: GuestDisk, tmp_path: Path) -> None:
    target_format, compress, before = WAYS[way]
    source = guest.path
    if before is not None:
        source = tmp_path / "source"
        options = ["-c", "-o", f"compression_type={before[1]}"] if before[1] else []
        qemu_img("convert", "-f", "raw", "-O", before[0], *options, guest.path, source)
    target = tmp_path / "target"

    report = diskcopy.copy(str(source), str(target), target_format=target_format, compress=compress)

    assert report.size == report.data + report.zero + report.hole == guest_disk.SIZE
    # The swap partition's zeroes take space in the guest's file, and none in any copy.
    assert target.stat().st_blocks * 512 <= guest.path.stat().st_blocks * 512 - guest_disk.SWAP[1]
    qemu_img("compare", "-f", "raw", "-F", target_format, guest.path, target)
    assert diskcopy.compare(str(source), str(target)).same
    assert diskcopy.checksum(str(target)) == diskcopy.checksum(str(guest.path))
    if target_format == "qcow2":
        qemu_img("check", target)

    disk = as_raw(target, target_format)
    guest_disk.check_filesystem(disk)
    assert guest_disk.read_files(disk, list(guest.files), tmp_path / "out") == guest.files
