# SPDX-License-Identifier: Apache-2.0
"""qcow2's big-endian tables, turned into merged runs of guest bytes with the GIL released.

Facts are from QEMU's docs/interop/qcow2.txt, "Cluster mapping" and "Extended L2 Entries".
"""

cimport cython
from cpython cimport array
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
import array as _array

cdef extern from "<endian.h>" nogil:
    uint64_t be64toh(uint64_t value)

cdef array.array EMPTY = _array.array("q")

# The kinds of runs, as diskcopy.formats.qcow2.lookup names them.
cdef enum:
    UNALLOCATED
    ZERO_PLAIN
    ZERO_ALLOCATED
    DATA
    COMPRESSED
    BAD

# What is wrong with an entry, as diskcopy.formats.qcow2.lookup words it.
cdef enum:
    FINE
    RESERVED
    UNALIGNED
    ZERO_IN_VERSION_2
    SUBCLUSTER_BOTH
    SUBCLUSTER_NOWHERE
    NOT_AT_GUEST_OFFSET
    COMPRESSED_IN_DATA_FILE

cdef enum:
    FIELDS = 5
    SUBCLUSTERS = 32
    SUBCLUSTER_BITS = 5
    SECTOR = 512

cdef uint64_t FLAG_COPIED = <uint64_t> 1 << 63
cdef uint64_t FLAG_COMPRESSED = <uint64_t> 1 << 62
cdef uint64_t FLAG_ZERO = 1
cdef uint64_t OFFSET_MASK = 0x00FFFFFFFFFFFE00
cdef uint64_t L2_RESERVED = 0x3F000000000001FE


cdef struct Format:
    int cluster_bits
    bint extended
    bint external
    bint version_2


cdef struct Runs:
    int64_t* out
    Py_ssize_t count
    Py_ssize_t most
    bint reading


cdef struct Entry:
    int kind
    int64_t host
    int64_t stored
    # Of a cluster whose subclusters differ; `kind` tells then whether it has a place.
    bint mixed
    uint32_t allocated
    uint32_t zeroed


cdef inline uint64_t _word(const uint8_t* table, Py_ssize_t index) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, table + 8 * index, 8)
    return be64toh(value)


cdef inline bint _put(Runs* runs, int kind, int64_t start, int64_t length, int64_t host,
                      int64_t stored) noexcept nogil:
    """Add a run, or lengthen the last; False where there is no room."""
    cdef int64_t* last
    if runs.count:
        last = runs.out + FIELDS * (runs.count - 1)
        if last[0] == kind and (
            (kind == DATA and last[3] + last[2] == host) or kind < DATA
            or (kind == COMPRESSED and not runs.reading)
        ):
            last[2] += length
            return True
    if runs.count == runs.most:
        return False
    last = runs.out + FIELDS * runs.count
    last[0] = kind
    last[1] = start
    last[2] = length
    last[3] = host if kind >= DATA else 0
    last[4] = stored
    runs.count += 1
    return True


cdef inline int _decode(const uint8_t* table, Py_ssize_t index, int64_t guest, const Format* form,
                        Entry* entry) noexcept nogil:
    """One L2 entry; FINE, or what is wrong with it."""
    cdef uint64_t word, bitmap = 0
    cdef int offset_bits
    entry.mixed = False
    if form.extended:
        word = _word(table, 2 * index)
        bitmap = _word(table, 2 * index + 1)
    else:
        word = _word(table, index)
    if word & FLAG_COMPRESSED:
        if form.external:
            return COMPRESSED_IN_DATA_FILE
        # Bits of the offset that the descriptor has room for, but the format does not allow.
        offset_bits = 62 - (form.cluster_bits - 8)
        entry.host = word & ((<uint64_t> 1 << offset_bits) - 1)
        if bitmap or entry.host >> 56:
            return RESERVED
        entry.stored = (((word & (FLAG_COMPRESSED - 1)) >> offset_bits) + 1) * SECTOR - entry.host % SECTOR
        entry.kind = COMPRESSED
        return FINE
    if word & L2_RESERVED:
        return RESERVED
    entry.host = word & OFFSET_MASK
    entry.stored = 0
    if entry.host & ((<int64_t> 1 << form.cluster_bits) - 1):
        return UNALIGNED
    # In a data file a cluster may lie at offset 0; the bit for "refcount is one" tells.
    if not entry.host and not (form.external and word & FLAG_COPIED):
        entry.kind = UNALLOCATED
    elif form.external and entry.host != guest:
        return NOT_AT_GUEST_OFFSET
    else:
        entry.kind = DATA
    if form.extended:
        if word & FLAG_ZERO:
            return RESERVED
        entry.allocated = bitmap & <uint64_t> 0xFFFFFFFF
        entry.zeroed = bitmap >> 32
        if entry.allocated & entry.zeroed:
            return SUBCLUSTER_BOTH
        if entry.allocated and entry.kind == UNALLOCATED:
            return SUBCLUSTER_NOWHERE
        if not entry.allocated and not entry.zeroed:
            entry.kind = UNALLOCATED
        elif entry.zeroed == 0xFFFFFFFFU:
            entry.kind = ZERO_PLAIN if entry.kind == UNALLOCATED else ZERO_ALLOCATED
        else:
            entry.mixed = entry.allocated != 0xFFFFFFFFU
    elif word & FLAG_ZERO:
        if form.version_2:
            return ZERO_IN_VERSION_2
        entry.kind = ZERO_PLAIN if entry.kind == UNALLOCATED else ZERO_ALLOCATED
    return FINE


cdef inline int _subcluster_kind(const Entry* entry, int number) noexcept nogil:
    if entry.allocated >> number & 1:
        return DATA
    if entry.zeroed >> number & 1:
        return ZERO_PLAIN if entry.kind == UNALLOCATED else ZERO_ALLOCATED
    return UNALLOCATED


cdef int64_t _put_subclusters(Runs* runs, const Entry* entry, int64_t base, int64_t low, int64_t high,
                              int subcluster_bits) noexcept nogil:
    """The runs of [low, high) within the cluster at guest offset `base`; how far there was room."""
    cdef int number
    cdef int64_t stop
    while low < high:
        number = <int> (low >> subcluster_bits)
        stop = min(high, <int64_t> (number + 1) << subcluster_bits)
        if not _put(runs, _subcluster_kind(entry, number), base + low, stop - low, entry.host + low, 0):
            break
        low = stop
    return low


@cython.boundscheck(False)
def runs(const unsigned char[::1] table not None, int64_t base, int64_t start, int64_t end,
         int cluster_bits, bint extended, bint external, bint version_2, bint reading, Py_ssize_t most):
    """The guest bytes [start, end) of an L2 table whose first byte is guest offset `base`.

    external: clusters lie in a data file, at their guest offsets
    reading: each compressed cluster is a run of its own; otherwise they merge
    most: runs to return; where more are needed they stop before `end`

    Returns array('q') with five numbers a run: kind, start, length, host, stored. `host` is
    the file offset of data, and of a compressed cluster's bytes; `stored` is how many those
    are at the most. Runs are clipped to the range, but host and stored of a compressed
    cluster always mean all of it. An entry that breaks the format ends the runs: its kind
    is BAD, its length what is wrong.
    """
    cdef Format form
    cdef Runs found
    cdef Entry entry
    cdef array.array result
    cdef int64_t size = <int64_t> 1 << cluster_bits, position = start - base, stop = end - base
    cdef int64_t cluster, low, high
    cdef int wrong
    if not 9 <= cluster_bits <= 21 or most < 1:
        raise ValueError("cluster_bits are 9 to 21, and at least one run is asked for")
    if not base <= start <= end or stop > (table.shape[0] // (16 if extended else 8)) << cluster_bits:
        raise ValueError("the range lies outside the table")
    form.cluster_bits = cluster_bits
    form.extended = extended
    form.external = external
    form.version_2 = version_2
    # A run needs an entry, or a subcluster of one.
    most = min(most, (((stop - 1) >> cluster_bits) - (position >> cluster_bits) + 1)
               * (SUBCLUSTERS if extended else 1)) if stop > position else 0
    result = array.clone(EMPTY, FIELDS * most, zero=False)
    found.out = <int64_t*> result.data.as_longlongs
    found.count = 0
    found.most = most
    found.reading = reading
    with nogil:
        while position < stop:
            cluster = position & -size
            low = position - cluster
            high = min(size, stop - cluster)
            wrong = _decode(&table[0], cluster >> cluster_bits, base + cluster, &form, &entry)
            if wrong:
                _put(&found, BAD, base + position, wrong, 0, 0)
                break
            if entry.mixed:
                low = _put_subclusters(&found, &entry, base + cluster, low, high,
                                       cluster_bits - SUBCLUSTER_BITS)
                if low < high:
                    break
            elif not _put(&found, entry.kind, base + position, high - low,
                          entry.host + (low if entry.kind == DATA else 0), entry.stored):
                break
            position = cluster + high
    array.resize(result, FIELDS * found.count)
    return result


@cython.boundscheck(False)
def next_used(const unsigned char[::1] l1 not None, Py_ssize_t first, Py_ssize_t end):
    """The first of the L1 entries [first, end) that says anything, or `end`."""
    cdef Py_ssize_t index = first
    if not 0 <= first <= end <= l1.shape[0] // 8:
        raise ValueError("the entries lie outside the table")
    if first == end:
        return end
    with nogil:
        while index < end and not _word(&l1[0], index) & ~FLAG_COPIED:
            index += 1
    return index


@cython.boundscheck(False)
def count_used(const unsigned char[::1] l1 not None):
    """How many L1 entries say anything."""
    cdef Py_ssize_t index, count = 0, end = l1.shape[0] // 8
    if not end:
        return 0
    with nogil:
        for index in range(end):
            count += (_word(&l1[0], index) & ~FLAG_COPIED) != 0
    return count


@cython.boundscheck(False)
def clear(unsigned char[::1] buffer not None):
    """Fill `buffer` with zeroes."""
    if buffer.shape[0]:
        with nogil:
            memset(&buffer[0], 0, buffer.shape[0])
