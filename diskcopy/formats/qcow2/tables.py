# SPDX-License-Identifier: Apache-2.0
"""The L1 and L2 tables of an image in the making: the L2 tables in use in memory, the others in its storage.

Entries in memory are in the machine's byte order; on their way out and in they are swapped.
The caller holds a lock around every method here.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict

from diskcopy.formats.qcow2 import header
from diskcopy.formats.qcow2.allocation import Allocation
from diskcopy.formats.qcow2.geometry import ENTRY, Geometry
from diskcopy.image import Image

# What the L2 tables in memory may take together, which is enough for 128 GiB of disk in
# clusters of 64 KiB; and how many there are at the least, however large.
CACHE_BYTES = 16 << 20
CACHE_TABLES = 4

# Tables go to the storage in pieces of so many entries.
_PIECE = 1 << 17


class Tables:
    """Where each cluster of the disk lies."""

    def __init__(self, storage: Image, grid: Geometry, allocation: Allocation) -> None:
        self._storage = storage
        self._grid = grid
        self._allocation = allocation
        #: entry n says where the n-th L2 table lies; 0 where there is none
        self.l1 = array("Q")
        self._most = max(CACHE_TABLES, CACHE_BYTES >> grid.cluster_bits)
        # In the order of their last use; all differ from what the storage has, or may.
        self._cached: OrderedDict[int, array[int]] = OrderedDict()

    def grow(self, entries: int) -> None:
        """Make the L1 table at least so long."""
        if entries > len(self.l1):
            self.l1.frombytes(bytes((entries - len(self.l1)) * ENTRY))

    def get(self, index: int) -> array[int] | None:
        """The L2 table of an L1 entry, to be read or changed at once; None where there is none."""
        table = self._cached.get(index)
        if table is not None:
            self._cached.move_to_end(index)
            return table
        if index >= len(self.l1) or not self.l1[index]:
            return None
        raw = self._storage.read(self.l1[index] & header.OFFSET_MASK, self._grid.cluster_size)
        table = array("Q", bytes(raw))
        if sys.byteorder == "little":
            table.byteswap()
        return self._keep(index, table)

    def get_or_make(self, index: int) -> array[int]:
        """The L2 table of an L1 entry, a new one where there is none."""
        table = self.get(index)
        if table is None:
            self.grow(index + 1)
            self.l1[index] = self._allocation.take(1) | header.COPIED
            table = self._keep(index, array("Q", bytes(self._grid.cluster_size)))
        return table

    def write_l2(self) -> None:
        """Bring every L2 table to the storage."""
        for index, table in self._cached.items():
            self._write(index, table)

    def write_l1(self, offset: int, clusters: int) -> None:
        write_table(self._storage, offset, self.l1, clusters << self._grid.cluster_bits)

    def _keep(self, index: int, table: array[int]) -> array[int]:
        while len(self._cached) >= self._most:
            oldest = next(iter(self._cached))
            self._write(oldest, self._cached[oldest])
            del self._cached[oldest]
        self._cached[index] = table
        return table

    def _write(self, index: int, table: array[int]) -> None:
        self._storage.write(self.l1[index] & header.OFFSET_MASK, stored(table[:]))


def stored(entries: array[int]) -> memoryview:
    """The bytes of `entries` as the image has them: big-endian. `entries` itself is changed."""
    if sys.byteorder == "little":
        entries.byteswap()
    return memoryview(entries).cast("B")


def write_table(storage: Image, offset: int, table: array[int], length: int) -> None:
    """Write a table of 8 byte entries into `length` bytes at `offset`, zeroes after its end."""
    for first in range(0, len(table), _PIECE):
        storage.write(offset + first * ENTRY, stored(table[first : first + _PIECE]))
    used = len(table) * ENTRY
    storage.zero(offset + used, length - used, False)
