# SPDX-License-Identifier: Apache-2.0
"""How large the image file of a disk becomes, from the disk's data ranges alone."""

from __future__ import annotations

from collections.abc import Iterable

from diskcopy.errors import UsageError
from diskcopy.formats.measured import Measure
from diskcopy.formats.qcow2.geometry import check_size, geometry


def measure(
    size: int, data: Iterable[tuple[int, int]], *, cluster_size: int = 1 << 16, preallocate: str = "off"
) -> Measure:
    """What a disk of `size` bytes takes as qcow2, whose data are the [start, end) ranges of `data`.

    data: ascending, and not overlapping
    preallocate: "off", "metadata" or "full", as the writer takes it

    Raises UsageError for a wrong cluster size, Unsupported for a disk too large for it.
    """
    check_preallocate(preallocate)
    grid = geometry(cluster_size, "qcow2")
    check_size(grid, size, "qcow2")
    every = grid.clusters(size)
    full = grid.file_size(size, -(-every // grid.table_entries), every)
    if preallocate != "off":
        return Measure(full, full)
    clusters = tables = next_cluster = next_table = 0
    for start, end in data:
        if start == end:
            continue
        first, stop = max(start >> grid.cluster_bits, next_cluster), grid.clusters(end)
        clusters += max(0, stop - first)
        next_cluster = max(next_cluster, stop)
        first, stop = max(start // grid.table_span, next_table), -(-end // grid.table_span)
        tables += max(0, stop - first)
        next_table = max(next_table, stop)
    return Measure(grid.file_size(size, tables, clusters), full)


def check_preallocate(preallocate: str) -> None:
    """Raise UsageError where it is not a way to preallocate."""
    if preallocate not in ("off", "metadata", "full"):
        raise UsageError(
            "qcow2", f"{preallocate!r} is not a preallocation", remedy="use off, metadata or full"
        )
