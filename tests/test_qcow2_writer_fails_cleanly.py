# SPDX-License-Identifier: Apache-2.0
"""What cannot be written as qcow2 is refused in words, and a failed write leaves no valid image."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from qcow2_writing import GiB, KiB, MiB, new_image

from diskcopy.errors import NoSpace, SystemFailure, Unsupported, UsageError, WrongFormat
from diskcopy.formats.qcow2.header import Header
from diskcopy.formats.qcow2.writer import Qcow2Writer
from diskcopy.layers.fail import Fail
from diskcopy.storage.file import NewFile
from diskcopy.storage.memory import Memory


def fill(writer: Qcow2Writer) -> None:
    """Write all of the disk with bytes that do not compress."""
    rng = random.Random(1)
    for offset in range(0, writer.size or 0, MiB):
        writer.write(offset, rng.randbytes(MiB))


@pytest.mark.parametrize("cluster_size", [0, 1, 256, 1000, 65537, 4 * MiB, -512])
def test_cluster_size(tmp_path: Path, cluster_size: int) -> None:
    with pytest.raises(UsageError, match="is not a cluster size"):
        new_image(tmp_path / "q", MiB, cluster_size=cluster_size)


def test_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'lzma' is not a compression"):
        new_image(tmp_path / "q", MiB, compression="lzma")
    with pytest.raises(UsageError, match="'some' is not a preallocation"):
        new_image(tmp_path / "q", MiB, preallocate="some")
    with pytest.raises(UsageError, match="compressed image cannot be preallocated"):
        new_image(tmp_path / "q", MiB, compression="zlib", preallocate="full")


def test_disks_too_large_for_their_clusters(tmp_path: Path) -> None:
    new_image(tmp_path / "q", 128 * GiB, cluster_size=512).close()
    with pytest.raises(Unsupported, match="use clusters of 1024 bytes"):
        new_image(tmp_path / "q", 128 * GiB + 1, cluster_size=512)
    with pytest.raises(Unsupported, match="use clusters of 2097152 bytes"):
        new_image(tmp_path / "q", 1 << 61)
    for size in ((1 << 61) + 1, (1 << 63) - 1):
        with pytest.raises(Unsupported, match="too large for qcow2; use raw"):
            new_image(tmp_path / "q", size)


def test_a_stream_too_large_for_its_clusters(tmp_path: Path) -> None:
    with new_image(tmp_path / "q", None, cluster_size=512) as writer:
        with pytest.raises(Unsupported, match="use clusters of 1024 bytes"):
            writer.write(128 * GiB, b"a")
        with pytest.raises(Unsupported, match="use clusters of 1024 bytes"):
            writer.resize(128 * GiB + 1)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_device_too_small(compression: str | None) -> None:
    storage = Memory(MiB)
    with Qcow2Writer(storage, 4 * MiB, compression=compression) as writer:
        with pytest.raises(NoSpace, match=f"needs more than the {MiB} bytes") as failure:
            fill(writer)
        assert failure.value.errno == errno.ENOSPC
        with pytest.raises(WrongFormat):
            Header.parse(storage)


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({}, "write"),
        ({"compression": "zlib"}, "write"),
        ({"compression": "zstd"}, "write"),
        ({"preallocate": "full"}, "zero"),
    ],
    ids=str,
)
def test_no_space(tmp_path: Path, options: dict[str, str], action: str) -> None:
    """The storage's error is the write's, and nothing is left."""
    file = NewFile(str(tmp_path / "q"))
    failing = Fail(file, action, at=3 * MiB, errno=errno.ENOSPC)
    with Qcow2Writer(failing, 8 * MiB, **options) as writer:  # type: ignore[arg-type]
        with pytest.raises(NoSpace, match="no space left"):
            fill(writer)
        with pytest.raises(WrongFormat):
            Header.parse(file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", range(4))
def test_a_failing_flush_leaves_no_header(tmp_path: Path, after: int) -> None:
    """Header last: whichever write of the flush fails, there is no valid image."""
    file = NewFile(str(tmp_path / "q"))
    failing = Fail(file, "write", after=1 + after)
    with Qcow2Writer(failing, 8 * MiB) as writer:
        writer.write(0, b"a")
        with pytest.raises(SystemFailure):
            writer.flush()
        with pytest.raises(WrongFormat):
            Header.parse(file)


def test_a_compressed_cluster_is_written_once(tmp_path: Path) -> None:
    with new_image(tmp_path / "q", MiB, compression="zlib") as writer:
        writer.write(0, bytes(128 * KiB))
        with pytest.raises(Unsupported, match="written only once at offset 65536"):
            writer.write(64 * KiB, bytes(64 * KiB))
        with pytest.raises(Unsupported, match="written only once at offset 0"):
            writer.zero(0, 64 * KiB)
        writer.zero(128 * KiB, 64 * KiB)
