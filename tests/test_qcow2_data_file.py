# SPDX-License-Identifier: Apache-2.0
"""An image whose clusters are in a data file reads them there, or says which file it lacks."""

from pathlib import Path

import pytest
import qemu_images
from qemu_images import MiB

from diskcopy.errors import Corrupt, Refused, Unsupported
from diskcopy.formats.qcow2.reader import Qcow2
from diskcopy.image import Image
from diskcopy.storage.file import File
from diskcopy.storage.memory import Memory


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "image")
    options = f"data_file={tmp_path / 'data'}"
    qemu_images.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "4M")
    qemu_images.run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", "-c", "write -P 2 3M 1M", path)
    return path


def test_it_is_opened_as_raw_and_belongs_to_the_identity(path: str, tmp_path: Path) -> None:
    asked = []

    def opener(reference: str, image_format: str | None) -> Image:
        asked.append((reference, image_format))
        return File(reference)

    with Qcow2(File(path), opener) as image, File(str(tmp_path / "data")) as data:
        assert asked == [(str(tmp_path / "data"), "raw")]
        assert data.identity() < image.identity()
        assert image.read(0, 2) == b"\1\1"
        assert [extent.data for extent in image.extents()] == [True, False, True]


def test_without_an_opener_it_is_not_followed(path: str) -> None:
    with Qcow2(File(path)) as image:
        assert image.describe()["data_file"].endswith("/data")
        with pytest.raises(Refused, match=r"needs its data file '.*/data'"):
            image.read(0, 1)


def test_a_data_file_that_was_cut_is_noticed(path: str) -> None:
    with Qcow2(File(path), lambda reference, image_format: Memory(b"\1" * 3 * MiB, name="data")) as image:
        assert image.read(0, 2) == b"\1\1"
        with pytest.raises(Corrupt, match="beyond the end of data"):
            image.read(3 * MiB, 1)


def test_an_image_that_does_not_name_it_is_refused(path: str) -> None:
    content = Path(path).read_bytes().replace(b"\x44\x41\x54\x41", b"\x44\x41\x54\x42", 1)
    with pytest.raises(Unsupported, match="does not name"):
        Qcow2(Memory(content), lambda reference, image_format: Memory(0))
