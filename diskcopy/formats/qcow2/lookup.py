# SPDX-License-Identifier: Apache-2.0
"""Where a disk's bytes are in a qcow2 file: the L1 table, a bounded cache of L2 tables, and runs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from diskcopy.errors import Corrupt
from diskcopy.formats.qcow2 import _tables
from diskcopy.formats.qcow2.header import DATA_FILE, L1_RESERVED, OFFSET_MASK, Header
from diskcopy.image import Image

# The kinds of runs, in the order of the kernel's enum.
UNALLOCATED, ZERO_PLAIN, ZERO_ALLOCATED, DATA, COMPRESSED, BAD = range(6)

# What the kernel finds wrong with an L2 entry, in the order of its enum.
_WRONG = (
    "",
    "has reserved bits set",
    "does not point to the start of a cluster",
    "is a zero cluster, which version 2 does not have",
    "has a subcluster both allocated and zero",
    "has subclusters allocated, but no cluster",
    "does not point to its own offset in the data file",
    "is a compressed cluster, which an image with a data file does not have",
)

_CACHE_BYTES = 16 << 20
# A cached table costs this besides its bytes.
_CACHE_OVERHEAD = 200
# Runs the kernel returns at a time: 160 KiB of them.
_MOST_RUNS = 4096

Run = tuple[int, int, int, int, int]


class Lookup:
    """The mapping of one image, for any number of threads."""

    def __init__(self, storage: Image, header: Header) -> None:
        self._storage = storage
        self._header = header
        self._end = storage._size()
        self._l1: bytearray | None = None
        self._cache: OrderedDict[int, bytearray] = OrderedDict()
        self._room = max(2, _CACHE_BYTES // (header.cluster_size + _CACHE_OVERHEAD))
        self._lock = threading.Lock()

    def runs(self, offset: int, end: int, *, reading: bool) -> Iterator[Run]:
        """Runs (kind, start, length, host, stored) of the guest bytes [offset, end), lazily.

        They are what `_tables.runs` says, in order, without gaps; tables are read only as
        far as the caller goes. Raises Corrupt at the offset of an entry that is wrong.
        """
        header = self._header
        l1 = self._l1 or self._load_l1()
        shift = header.cluster_bits + header.table_bits
        external = bool(header.incompatible & DATA_FILE)
        while offset < end:
            index = offset >> shift
            used = _tables.next_used(l1, index, ((end - 1) >> shift) + 1)
            if used > index:
                stop = min(end, used << shift)
                yield UNALLOCATED, offset, stop - offset, 0, 0
                offset = stop
                continue
            base = index << shift
            stop = min(end, base + (1 << shift))
            table = self._table(l1, index)
            while offset < stop:
                numbers = iter(
                    _tables.runs(
                        table, base, offset, stop, header.cluster_bits, header.extended_l2,
                        external, header.version == 2, reading, _MOST_RUNS,
                    )
                )  # fmt: skip
                for run in zip(numbers, numbers, numbers, numbers, numbers, strict=True):
                    if run[0] == BAD:
                        raise self.corrupt(_WRONG[run[2]], run[1])
                    yield run
                    offset = run[1] + run[2]

    def corrupt(self, reason: str, guest: int) -> Corrupt:
        """The error for the L2 entry of the guest byte `guest`."""
        header = self._header
        l1 = self._l1 or self._load_l1()
        table = self._table_offset(l1, guest >> (header.cluster_bits + header.table_bits))
        index = (guest >> header.cluster_bits) & ((1 << header.table_bits) - 1)
        return Corrupt(
            self._storage.name,
            f"the L2 entry of the disk's byte {guest} {reason}",
            offset=table + index * (16 if header.extended_l2 else 8),
            remedy="see what can be saved with qemu-img check -r all on a copy",
        )

    def _load_l1(self) -> bytearray:
        header = self._header
        l1 = self._storage.read(header.l1_offset, 8 * header.l1_needed)
        # Each table has a cluster of its own; more of them than the file has room for would
        # let a small file cost any amount of time.
        if _tables.count_used(l1) << header.cluster_bits > self._end:
            raise Corrupt(
                self._storage.name,
                "the L1 table names more L2 tables than the file can hold",
                offset=header.l1_offset,
                remedy="the file is damaged or was cut short: copy it again",
            )
        self._l1 = l1
        return l1

    def _table_offset(self, l1: bytearray, index: int) -> int:
        entry = int.from_bytes(l1[8 * index : 8 * index + 8], "big")
        offset = entry & OFFSET_MASK
        if entry & L1_RESERVED:
            reason = "has reserved bits set"
        elif offset & (self._header.cluster_size - 1):
            reason = "does not point to the start of a cluster"
        elif offset + self._header.cluster_size > self._end:
            reason = f"points beyond the end of the file, {self._end}"
        else:
            return offset
        raise Corrupt(
            self._storage.name,
            f"the L1 entry {index} {reason}",
            offset=self._header.l1_offset + 8 * index,
            remedy="see what can be saved with qemu-img check -r all on a copy",
        )

    def _table(self, l1: bytearray, index: int) -> bytearray:
        offset = self._table_offset(l1, index)
        with self._lock:
            table = self._cache.get(offset)
            if table is not None:
                self._cache.move_to_end(offset)
                return table
        # Two threads may read the same table at once; that costs less than one waiting.
        table = self._storage.read(offset, self._header.cluster_size)
        with self._lock:
            self._cache[offset] = table
            while len(self._cache) > self._room:
                self._cache.popitem(last=False)
        return table
