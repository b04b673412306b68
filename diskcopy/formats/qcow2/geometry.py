# SPDX-License-Identifier: Apache-2.0
"""How many clusters of which kind a new qcow2 image has: arithmetic that writer and measure share.

An image file made here is, from its start: the header; then in the order of their first
use, L2 tables, refcount blocks and the disk's clusters; and, when it is finished, the L1
table and the refcount table. Refcounts have 16 bits.
"""

from __future__ import annotations

from typing import NamedTuple

from diskcopy.errors import Unsupported, UsageError
from diskcopy.formats.qcow2 import header

ENTRY = 8
REFCOUNT = 2


class Geometry(NamedTuple):
    """The table sizes that follow from a cluster size; lengths are bytes, counts clusters or entries."""

    cluster_bits: int

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def table_entries(self) -> int:
        """Clusters that one L2 table maps."""
        return 1 << (self.cluster_bits - 3)

    @property
    def table_span(self) -> int:
        """Bytes of the disk that one L2 table maps."""
        return 1 << (2 * self.cluster_bits - 3)

    @property
    def block_entries(self) -> int:
        """Clusters that one refcount block counts."""
        return 1 << (self.cluster_bits - 1)

    def clusters(self, length: int) -> int:
        """Clusters that hold `length` bytes."""
        return -(-length >> self.cluster_bits)

    def l1_entries(self, size: int) -> int:
        """L1 entries for a disk of `size` bytes; one at the least, an empty table has no place."""
        return max(1, -(-size // self.table_span))

    def l1_clusters(self, size: int) -> int:
        return self.clusters(self.l1_entries(size) * ENTRY)

    def refcount_blocks(self, clusters: int) -> int:
        """Refcount blocks that count `clusters` and themselves."""
        return -(-clusters // (self.block_entries - 1))

    def refcount_table_clusters(self, size: int) -> int:
        """What the refcount table is given: enough for every cluster of the disk in use."""
        data = self.clusters(size)
        tables = -(-data // self.table_entries)
        fixed = 1 + self.l1_clusters(size) + tables + data
        most = header.MAX_REFCOUNT_TABLE_BYTES >> self.cluster_bits
        table = 1
        while True:
            needed = self.clusters(self.refcount_blocks(fixed + table) * ENTRY)
            if needed <= table:
                return min(table, most)
            table = needed

    def file_size(self, size: int, tables: int, data: int) -> int:
        """The image file's bytes with so many L2 tables and clusters of data in it."""
        clusters = 1 + self.l1_clusters(size) + self.refcount_table_clusters(size) + tables + data
        return (clusters + self.refcount_blocks(clusters)) << self.cluster_bits


def geometry(cluster_size: int, name: str) -> Geometry:
    """Raises UsageError where qcow2 has no such cluster size."""
    bits = cluster_size.bit_length() - 1
    if cluster_size != 1 << max(bits, 0) or not header.MIN_CLUSTER_BITS <= bits <= header.MAX_CLUSTER_BITS:
        raise UsageError(
            name,
            f"{cluster_size} is not a cluster size",
            remedy="use a power of two from 512 to 2097152 bytes (2 MiB)",
        )
    return Geometry(bits)


def check_size(grid: Geometry, size: int, name: str) -> None:
    """Raise Unsupported where QEMU would not open a disk of `size` bytes: its L1 table is limited."""
    if grid.l1_entries(size) * ENTRY <= header.MAX_L1_BYTES and size <= header.MAX_OFFSET - header.SECTOR:
        return
    for bits in range(grid.cluster_bits + 1, header.MAX_CLUSTER_BITS + 1):
        if Geometry(bits).l1_entries(size) * ENTRY <= header.MAX_L1_BYTES:
            raise Unsupported(
                name,
                f"a disk of {size} bytes is too large for qcow2 with clusters of {grid.cluster_size} bytes",
                remedy=f"use clusters of {1 << bits} bytes",
            )
    raise Unsupported(name, f"a disk of {size} bytes is too large for qcow2", remedy="use raw")
