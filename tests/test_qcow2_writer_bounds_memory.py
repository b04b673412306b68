# SPDX-License-Identifier: Apache-2.0
"""What the writer keeps in memory does not grow with the disk, nor with its data."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
from qcow2_writing import GiB, KiB, MiB, finish, new_image, qemu_accepts, raw_disk

from diskcopy.formats.qcow2.tables import CACHE_BYTES


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_huge_sparse_disk(tmp_path: Path, compression: str | None) -> None:
    """A cluster in each of 500 L2 tables of 64 KiB, in random order, twice: tables leave and return."""
    size = 8 << 40
    rng = random.Random(3)
    tables = rng.sample(range(size // (512 * MiB)), 500)
    written = [(table * 512 * MiB + at, rng.randbytes(8) * 8192) for at in (0, 5 * MiB) for table in tables]
    tracemalloc.start()
    try:
        writer = new_image(tmp_path / "q", size, compression=compression)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for offset, content in written:
            writer.write(offset, content)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    # The L1 table has 128 KiB.
    assert peak < CACHE_BYTES + 2 * MiB
    finish(writer)
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", size, written))


def test_many_refcount_blocks(tmp_path: Path) -> None:
    """Clusters of 512 bytes: a refcount block each 128 KiB, of which few are in memory."""
    content = random.Random(4).randbytes(MiB)
    writer = new_image(tmp_path / "q", GiB, cluster_size=512)
    for offset in range(0, 40 * MiB, MiB):
        writer.write(offset, content)
        assert len(writer._allocation._open) < 4
    finish(writer)
    written = [(offset, content) for offset in range(0, 40 * MiB, MiB)]
    qemu_accepts(tmp_path / "q", raw_disk(tmp_path / "r", GiB, written))


def test_an_empty_disk_costs_nothing(tmp_path: Path) -> None:
    finish(new_image(tmp_path / "q", 8 << 40))
    # Header, refcounts and their table: a cluster each; the L1 table: two.
    assert (tmp_path / "q").stat().st_size == 5 * 64 * KiB
