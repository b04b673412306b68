# SPDX-License-Identifier: Apache-2.0
"""Giving clusters of an L2 table their places in the image file."""

from libc.stdint cimport uint64_t

cdef uint64_t COPIED = <uint64_t> 1 << 63
cdef uint64_t COMPRESSED = <uint64_t> 1 << 62
cdef uint64_t OFFSET_MASK = 0x00FFFFFFFFFFFE00


def missing(const uint64_t[::1] table not None, size_t first, size_t count):
    """How many of the `count` entries from `first` have no place yet."""
    cdef size_t index, found = 0
    if first > <size_t> table.shape[0] or count > <size_t> table.shape[0] - first:
        raise IndexError("the entries reach beyond the table")
    for index in range(first, first + count):
        found += table[index] == 0
    return found


def fill(uint64_t[::1] table not None, size_t first, size_t count, uint64_t place, uint64_t cluster_size):
    """Give those of the `count` entries from `first` that have no place the clusters at `place` and after."""
    cdef size_t index
    if first > <size_t> table.shape[0] or count > <size_t> table.shape[0] - first:
        raise IndexError("the entries reach beyond the table")
    for index in range(first, first + count):
        if table[index] == 0:
            table[index] = place | COPIED
            place += cluster_size


def runs(const uint64_t[::1] table not None, size_t first, size_t count, uint64_t cluster_size):
    """The `count` entries from `first` as runs [(place, clusters), ...] that lie one after another.

    The place of a run without places is 0, that of a compressed cluster, which is a run of
    its own, is -1.
    """
    cdef size_t index, start = first
    cdef uint64_t entry, next_entry
    if first > <size_t> table.shape[0] or count > <size_t> table.shape[0] - first:
        raise IndexError("the entries reach beyond the table")
    found = []
    for index in range(first, first + count):
        entry = table[index]
        if index + 1 < first + count and not entry & COMPRESSED:
            next_entry = table[index + 1]
            if next_entry == (entry + cluster_size if entry else 0):
                continue
        if entry & COMPRESSED:
            found.append((-1, 1))
        else:
            found.append((table[start] & OFFSET_MASK, index + 1 - start))
        start = index + 1
    return found
