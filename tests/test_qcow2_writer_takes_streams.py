# SPDX-License-Identifier: Apache-2.0
"""A disk whose size is known only after its last byte becomes a qcow2 image of that size."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from qcow2_writing import KiB, MiB, finish, new_image, qemu_accepts, raw_disk, some_bytes

from diskcopy.errors import Error, Unsupported, UsageError


@pytest.mark.parametrize("size", [0, 1, 512, 64 * KiB, 64 * KiB + 1, 5 * MiB + 100])
@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
def test_stream(tmp_path: Path, size: int, compression: str | None) -> None:
    content = some_bytes(random.Random(size), size)
    writer = new_image(tmp_path / "q", None, compression=compression)
    assert writer.size is None
    for offset in range(0, size, MiB):
        writer.write(offset, content[offset : offset + MiB])
    writer.resize(size)
    assert writer.size == size
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", size, [(0, content)]))


def test_a_zero_end_counts(tmp_path: Path) -> None:
    writer = new_image(tmp_path / "q", None)
    writer.write(0, b"a")
    writer.resize(700 * MiB)
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", 700 * MiB, [(0, b"a")]))


def test_the_size_is_final(tmp_path: Path) -> None:
    with new_image(tmp_path / "q", None) as writer:
        writer.write(0, bytes(100))
        with pytest.raises(Error, match="written to up to 100"):
            writer.resize(99)
        writer.resize(512)
        with pytest.raises(Error, match="beyond the disk of 512 bytes"):
            writer.write(512, b"a")
        writer.flush()
        with pytest.raises(Error, match="was flushed"):
            writer.resize(1024)


def test_a_known_size_does_not_change(tmp_path: Path) -> None:
    with new_image(tmp_path / "q", 512) as writer:
        with pytest.raises(Unsupported):
            writer.resize(1024)
        with pytest.raises(Error):
            writer.write(512, b"a")


def test_an_unknown_size_cannot_be_preallocated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size is not known"):
        new_image(tmp_path / "q", None, preallocate="metadata")
