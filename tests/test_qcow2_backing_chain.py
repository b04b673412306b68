# SPDX-License-Identifier: Apache-2.0
"""An overlay reads through its backing images, and never follows a reference on its own."""

import os
from pathlib import Path

import pytest
import qemu_images
from qemu_images import KiB, MiB

from diskcopy.errors import NotFound, Refused
from diskcopy.formats.qcow2.reader import Qcow2
from diskcopy.image import Image
from diskcopy.storage.file import File
from diskcopy.storage.memory import Memory


def overlay(folder: Path, base: bytes, size: int) -> str:
    (folder / "base").write_bytes(base)
    path = str(folder / "overlay")
    qemu_images.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", path, str(size))
    return path


def test_beyond_a_shorter_backing_image_the_disk_is_zero(tmp_path: Path) -> None:
    path = overlay(tmp_path, b"b" * (100 * KiB), MiB)
    with qemu_images.open_image(path) as image:
        # One read across the border, into a buffer that was not zero.
        buffer = bytearray(b"\xff" * (8 * KiB))
        image.readinto(98 * KiB, buffer)
        assert buffer == b"b" * (2 * KiB) + bytes(6 * KiB)
        image.readinto(200 * KiB, buffer)
        assert buffer == bytes(8 * KiB)


def test_a_longer_backing_image_is_cut(tmp_path: Path) -> None:
    path = overlay(tmp_path, b"b" * MiB, 100 * KiB)
    with qemu_images.open_image(path) as image:
        assert image.size == 100 * KiB
        assert image.read(0, 100 * KiB) == b"b" * (100 * KiB)


def test_without_an_opener_the_disk_is_refused_and_described_all_the_same(tmp_path: Path) -> None:
    with Qcow2(File(overlay(tmp_path, b"b" * MiB, MiB))) as image:
        assert image.describe()["backing_file"] == "base"
        with pytest.raises(Refused, match="backing file 'base'"):
            image.read(0, 512)
        with pytest.raises(Refused, match="backing file 'base'"):
            list(image.extents())


def test_the_opener_gets_the_reference_as_it_is_written(tmp_path: Path) -> None:
    path = overlay(tmp_path, b"b" * MiB, MiB)
    asked = []

    def opener(reference: str, image_format: str | None) -> Image:
        asked.append((reference, image_format))
        return Memory(b"m" * MiB)

    with Qcow2(File(path), opener) as image:
        assert image.read(5, 5) == b"mmmmm"
    assert asked == [("base", "raw")]


def test_identity_and_below_cover_the_chain(tmp_path: Path) -> None:
    path = overlay(tmp_path, b"b" * MiB, MiB)
    with qemu_images.open_image(path) as image, File(path) as file, File(str(tmp_path / "base")) as base:
        assert image.identity() == file.identity() | base.identity()
        assert len(image.below()) == 2


def test_a_missing_backing_image_leaves_nothing_open(tmp_path: Path) -> None:
    path = overlay(tmp_path, b"b" * MiB, MiB)
    os.unlink(tmp_path / "base")
    with File(path) as storage:
        before = len(os.listdir("/proc/self/fd"))

        def opener(reference: str, image_format: str | None) -> Image:
            return File(str(tmp_path / reference))

        with pytest.raises(NotFound):
            Qcow2(storage, opener)
        assert len(os.listdir("/proc/self/fd")) == before


def test_closing_closes_the_whole_stack(tmp_path: Path) -> None:
    path = overlay(tmp_path, b"b" * MiB, MiB)
    before = len(os.listdir("/proc/self/fd"))
    qemu_images.open_image(path).close()
    assert len(os.listdir("/proc/self/fd")) == before
