# SPDX-License-Identifier: Apache-2.0
"""What is written as qcow2 is, to QEMU, a sound image of the same disk, of any size and cluster size."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from qcow2_writing import GiB, KiB, MiB, finish, new_image, pieces, qemu_accepts, raw_disk

SIZES = [0, 1, 511, 64 * KiB, 64 * KiB + 1, 10_000_001, 70 * MiB]
CLUSTERS = [512, 64 * KiB, 2 * MiB]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cluster_size", CLUSTERS)
@pytest.mark.parametrize("preallocate", ["off", "metadata", "full"])
def test_plain(tmp_path: Path, size: int, cluster_size: int, preallocate: str) -> None:
    rng = random.Random(size + cluster_size)
    written = pieces(rng, size, 1)
    writer = new_image(tmp_path / "q", size, cluster_size=cluster_size, preallocate=preallocate)
    for offset, content in written:
        writer.write(offset, content)
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", size, written))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cluster_size", CLUSTERS)
@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed(tmp_path: Path, size: int, cluster_size: int, compression: str) -> None:
    rng = random.Random(size + cluster_size)
    written = pieces(rng, size, cluster_size)
    writer = new_image(tmp_path / "q", size, cluster_size=cluster_size, compression=compression)
    for offset, content in written:
        writer.write(offset, content)
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", size, written))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zstd"}], ids=str)
@pytest.mark.parametrize("cluster_size", [4 * KiB, 64 * KiB])
def test_threads_in_any_order(tmp_path: Path, options: dict[str, str], cluster_size: int) -> None:
    size = GiB + 7 * 512
    rng = random.Random(cluster_size)
    written = pieces(rng, size, 64 * KiB, 60)
    shuffled = rng.sample(written, len(written))
    writer = new_image(tmp_path / "q", size, cluster_size=cluster_size, **options)
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(lambda piece: writer.write(*piece), shuffled):
            pass
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", size, written))


def test_parts_of_a_cluster_by_and_by(tmp_path: Path) -> None:
    written = [(1000, b"a" * 100), (70_000, b"b" * 200), (10, b"c" * 990), (1050, b"d" * 80_000), (0, b"e")]
    writer = new_image(tmp_path / "q", MiB)
    for offset, content in written:
        writer.write(offset, content)
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", MiB, written))


@pytest.mark.parametrize("preallocate", ["off", "metadata"])
def test_zeroing(tmp_path: Path, preallocate: str) -> None:
    """What was written becomes zero again; zeroing what was not takes no space."""
    writer = new_image(tmp_path / "q", 64 * MiB, preallocate=preallocate)
    data = random.Random(1).randbytes(3 * MiB)
    writer.write(5 * MiB, data)
    before = writer.storage.size
    writer.zero(0, 5 * MiB + 70_001)
    writer.zero(7 * MiB + 5, 57 * MiB - 5)
    assert writer.storage.size == before
    finish(writer)
    kept = data[70_001 : 2 * MiB + 5]
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", 64 * MiB, [(5 * MiB + 70_001, kept)]))


def test_flushes_between_writes(tmp_path: Path) -> None:
    """Each flush completes the image as it is then; the tables keep their places."""
    written = pieces(random.Random(5), 100 * MiB, 4 * KiB, 12)
    writer = new_image(tmp_path / "q", 100 * MiB, cluster_size=4 * KiB)
    for count, (offset, content) in enumerate(written, 1):
        writer.write(offset, content)
        writer.flush()
        image = f"/proc/self/fd/{writer.storage.fileno()}"
        # A copy, since an unnamed file cannot be opened by another process.
        (tmp_path / "now").write_bytes(Path(image).read_bytes())
        qemu_accepts(tmp_path / "now", raw_disk(tmp_path / "r", 100 * MiB, written[:count]))
    writer.flush()
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", 100 * MiB, written))


@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
def test_read_back(tmp_path: Path, compression: str | None) -> None:
    size = 20 * MiB + 3
    written = pieces(random.Random(6), size, 64 * KiB)
    with new_image(tmp_path / "q", size, compression=compression) as writer:
        for offset, content in written:
            writer.write(offset, content)
        writer.flush()
        disk = writer.reread()
        assert disk.size == 20 * MiB + 512
        for offset, content in written:
            assert disk.read(offset, len(content)) == content


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_campaign(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cluster_size = 1 << rng.randrange(9, 22)
    compression = rng.choice([None, "zlib", "zstd"])
    size = rng.randrange(1, 200 * cluster_size)
    written = pieces(rng, size, cluster_size if compression else 1, rng.randrange(1, 60))
    writer = new_image(tmp_path / "q", size, cluster_size=cluster_size, compression=compression)
    with ThreadPoolExecutor(3) as threads:
        # Pieces of a plain image may meet in one cluster, which threads must not.
        order = rng.sample(written, len(written))
        for _ in threads.map(lambda piece: writer.write(*piece), order) if compression else ():
            pass
    for piece in order if not compression else ():
        writer.write(*piece)
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", size, written))


@pytest.mark.slow
def test_more_than_one_refcount_block_of_64_kib_clusters(tmp_path: Path) -> None:
    """2 GiB of clusters in the image file; the disk is written with its first byte alone each."""
    size = 3 * GiB
    written = [(offset, b"x") for offset in range(0, size, 64 * KiB)]
    writer = new_image(tmp_path / "q", size)
    for offset, content in written:
        writer.write(offset, content)
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", size, written))
