# SPDX-License-Identifier: Apache-2.0
"""Nothing of what a target held before is in the image that is written over it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from qcow2_writing import KiB, MiB, pieces, qemu_accepts, raw_disk

from diskcopy.errors import UsageError, WrongFormat
from diskcopy.formats.qcow2.header import Header
from diskcopy.formats.qcow2.writer import Qcow2Writer
from diskcopy.image import Image
from diskcopy.storage.block import BlockDevice
from diskcopy.storage.memory import Memory


def old(size: int) -> Memory:
    return Memory(b"\xff" * size)


def check(storage: Image, image: str, tmp_path: Path, **options: object) -> None:
    size = 9 * MiB + 300
    with Qcow2Writer(storage, size, **options) as writer:  # type: ignore[arg-type]
        written = pieces(random.Random(8), size, writer.block.minimum)
        # The piece at the disk's end is the one that ends within a cluster.
        last = size // writer.block.minimum * writer.block.minimum
        written = [piece for piece in written if piece[0] + len(piece[1]) <= last]
        written.append((last, b"\xee" * (size - last)))
        for offset, content in written:
            writer.write(offset, content)
        writer.flush()
    if isinstance(storage, Memory):
        Path(image).write_bytes(storage.content)
    qemu_accepts(image, raw_disk(tmp_path / "r", size, written))


@pytest.mark.parametrize("cluster_size", [512, 64 * KiB, MiB])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"compression": "zstd"}, {"preallocate": "metadata"}], ids=str
)
def test_memory(tmp_path: Path, cluster_size: int, options: dict[str, str]) -> None:
    check(old(20 * MiB), str(tmp_path / "q"), tmp_path, cluster_size=cluster_size, **options)


@pytest.mark.root
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_device(tmp_path: Path, loop_device: Callable[..., str], compression: str | None) -> None:
    (tmp_path / "medium").write_bytes(b"\xff" * (16 * MiB))
    device = loop_device(tmp_path / "medium")
    check(BlockDevice(device, writable=True), device, tmp_path, compression=compression)


def test_parts_of_clusters_are_refused() -> None:
    with Qcow2Writer(old(MiB), 200 * KiB) as writer:
        assert writer.block.minimum == 64 * KiB
        for offset, length in ((1, 64 * KiB), (0, 100), (64 * KiB, 65 * KiB)):
            with pytest.raises(UsageError, match="whole clusters"):
                writer.write(offset, bytes(length))


def test_an_old_header_does_not_outlive_the_first_write(tmp_path: Path) -> None:
    storage = old(4 * MiB)
    with Qcow2Writer(storage, MiB) as writer:
        writer.flush()
        assert Header.parse(storage).size == MiB
    with Qcow2Writer(storage, MiB) as writer:
        storage.is_zero = False
        assert Header.parse(storage).size == MiB, "nothing was written yet"
        writer.write(0, bytes(64 * KiB))
        with pytest.raises(WrongFormat):
            Header.parse(storage)
