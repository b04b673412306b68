# SPDX-License-Identifier: Apache-2.0
"""A block device is written only while nobody holds it, and known by any of its names."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diskcopy.errors import Error, NotFound, Refused
from diskcopy.image import shares_storage
from diskcopy.storage.block import BlockDevice
from diskcopy.storage.file import File

pytestmark = pytest.mark.root

MiB = 1 << 20


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    path = tmp_path / "medium"
    path.write_bytes(b"\xff" * (4 * MiB))
    return path


@pytest.fixture
def partitioned(medium: Path, loop_device: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """A disk and its one partition, from 1 MiB to 3 MiB. (The kernel is told: it may know no tables.)"""
    disk = loop_device(medium, "--partscan")
    subprocess.run(["addpart", disk, "1", "2048", "4096"], check=True)
    partition = Path(f"{disk}p1")
    made = not partition.exists()
    if made:  # a container without udev
        numbers = Path(f"/sys/class/block/{partition.name}/dev").read_text().strip().split(":")
        os.mknod(partition, 0o60600, os.makedev(int(numbers[0]), int(numbers[1])))
    yield disk, str(partition)
    subprocess.run(["delpart", disk, "1"], check=True)
    if made:
        partition.unlink()


def test_a_device_is_its_medium(medium: Path, loop_device: Callable[..., str]) -> None:
    with BlockDevice(loop_device(medium), writable=True) as device:
        assert device.size == 4 * MiB
        assert not device.is_zero
        assert device.describe() == {"storage": "block device", "size": 4 * MiB, "sector size": 512}
        device.write(1000, b"AB")
        device.zero(5000, MiB + 1)
        assert [(item.start, item.length, item.zero) for item in device.extents()] == [(0, 4 * MiB, False)]
        device.flush()
        assert device.reread().read(0, 6000) == b"\xff" * 1000 + b"AB" + b"\xff" * 3998 + bytes(1000)
        with pytest.raises(Error, match="does not fit"):
            device.write(4 * MiB - 1, b"AB")
    expected = bytearray(b"\xff" * (4 * MiB))
    expected[1000:1002] = b"AB"
    expected[5000 : 5001 + MiB] = bytes(MiB + 1)
    assert medium.read_bytes() == expected


@pytest.mark.parametrize("sector", ["512", "4096"])
def test_writes_and_zeroes_side_by_side(medium: Path, loop_device: Callable[..., str], sector: str) -> None:
    """Zeroing calls drop pages from memory; what was just written beside them must not go with them."""
    rng = random.Random(sector)
    expected = bytearray(b"\xff" * (4 * MiB))
    with BlockDevice(loop_device(medium, "--sector-size", sector), writable=True) as device:
        for _ in range(300):
            unit = rng.choice([1, 512, 4096])
            offset = rng.randrange(256) * rng.choice([512, 4096]) + rng.choice([0, 0, unit])
            length = unit * rng.randrange(1, 40)
            if rng.random() < 0.5:
                data = rng.randbytes(length)
                device.write(offset, data)
            else:
                data = bytes(length)
                device.zero(offset, length, rng.random() < 0.5)
            expected[offset : offset + length] = data
            assert device.read(max(offset - 5000, 0), 10_000) == expected[max(offset - 5000, 0) :][:10_000]
        device.flush()
        assert device.reread().read(0, 4 * MiB) == expected
    assert medium.read_bytes() == expected


def test_a_mounted_device_is_read_and_not_written(
    tmp_path: Path, medium: Path, loop_device: Callable[..., str]
) -> None:
    subprocess.run(["mke2fs", "-q", "-F", str(medium)], check=True)
    device = loop_device(medium)
    folder = tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mount", "-t", "ext2", device, str(folder)], check=True)
    try:
        with pytest.raises(Refused, match=r"is in use: mounted.*unmount or release it first"):
            BlockDevice(device, writable=True)
        BlockDevice(device).close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    BlockDevice(device, writable=True).close()


def test_a_disk_with_a_mounted_partition_is_not_written(tmp_path: Path, partitioned: tuple[str, str]) -> None:
    disk, partition = partitioned
    subprocess.run(["mke2fs", "-q", "-F", partition], check=True)
    folder = tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mount", "-t", "ext2", partition, str(folder)], check=True)
    try:
        for name in (disk, partition):
            with pytest.raises(Refused, match="is in use"):
                BlockDevice(name, writable=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_device_is_held_while_it_is_written(medium: Path, loop_device: Callable[..., str]) -> None:
    name = loop_device(medium)
    with BlockDevice(name, writable=True):
        with pytest.raises(Refused):
            BlockDevice(name, writable=True)
        done = subprocess.run(["mke2fs", "-q", name], capture_output=True, text=True, check=False)
        assert done.returncode != 0


def test_names_of_one_thing_are_found_out(
    tmp_path: Path, medium: Path, partitioned: tuple[str, str], loop_device: Callable[..., str]
) -> None:
    disk, partition = partitioned
    (tmp_path / "other").write_bytes(bytes(MiB))
    other = loop_device(tmp_path / "other")
    (tmp_path / "link").symlink_to(disk)
    images = [
        File(str(medium), locking=False),
        *(BlockDevice(name) for name in (disk, partition, str(tmp_path / "link"), other)),
    ]
    file, whole, part, link, stranger = (image.identity() for image in images)
    for image in images:
        image.close()
    assert whole == link
    for one in (whole, part, link):
        assert shares_storage(one, file)
        assert shares_storage(file, one)
        assert shares_storage(one, whole)
        assert shares_storage(whole, one)
        assert not shares_storage(one, stranger)


def test_a_device_whose_medium_is_deleted_is_still_used(
    medium: Path, loop_device: Callable[..., str]
) -> None:
    name = loop_device(medium)
    medium.unlink()
    with BlockDevice(name) as device:
        assert len(device.identity()) == 1
        assert device.read(0, 512) == b"\xff" * 512


def test_a_missing_device_is_told() -> None:
    with pytest.raises(NotFound, match="no such file"):
        BlockDevice("/dev/nonexistent")
