# SPDX-License-Identifier: Apache-2.0
"""Set algebra over byte ranges: flat int64 arrays start0, end0, start1, end1, ... in bytes.

"Sorted" here means ascending, disjoint, not touching, no range empty. Arguments
may be any int64 buffer (array('q'), numpy); results are new array('q').
"""

from cpython cimport array
from libc.stdint cimport int64_t
from libc.stdlib cimport qsort
import array as _array

from diskcopy.errors import Corrupt

cdef array.array EMPTY = _array.array("q")


cdef int _by_start(const void* left, const void* right) noexcept nogil:
    cdef int64_t a = (<const int64_t*> left)[0]
    cdef int64_t b = (<const int64_t*> right)[0]
    return (a > b) - (a < b)


cdef array.array _room(Py_ssize_t count):
    return array.clone(EMPTY, count, zero=False)


cdef Py_ssize_t _pairs_in(const int64_t[::1] pairs) except -1:
    if pairs.shape[0] % 2:
        raise ValueError("ranges come in pairs of start and end; one is missing")
    return pairs.shape[0]


cdef const int64_t* _first(const int64_t[::1] pairs) noexcept:
    return &pairs[0] if pairs.shape[0] else NULL


cdef Py_ssize_t _merge_sorted(int64_t* pairs, Py_ssize_t count) noexcept nogil:
    """Join ranges that touch or overlap, in place; the new count."""
    cdef Py_ssize_t read, kept = 0
    for read in range(0, count, 2):
        if pairs[read + 1] <= pairs[read]:
            continue
        if kept and pairs[read] <= pairs[kept - 1]:
            if pairs[read + 1] > pairs[kept - 1]:
                pairs[kept - 1] = pairs[read + 1]
        else:
            pairs[kept] = pairs[read]
            pairs[kept + 1] = pairs[read + 1]
            kept += 2
    return kept


def merge(const int64_t[::1] pairs not None):
    """The union of any ranges, in any order, sorted."""
    cdef Py_ssize_t count = _pairs_in(pairs), i
    cdef array.array result = _room(count)
    cdef int64_t* out = <int64_t*> result.data.as_longlongs
    cdef const int64_t* source = _first(pairs)
    cdef bint ascending = True
    with nogil:
        for i in range(count):
            out[i] = source[i]
        for i in range(2, count, 2):
            if out[i] < out[i - 2]:
                ascending = False
                break
        if not ascending:
            qsort(out, count // 2, 2 * sizeof(int64_t), _by_start)
        count = _merge_sorted(out, count)
    array.resize(result, count)
    return result


def unite(const int64_t[::1] left not None, const int64_t[::1] right not None):
    """The bytes in either of two sorted sets."""
    cdef Py_ssize_t n = _pairs_in(left), m = _pairs_in(right), i = 0, j = 0, count
    cdef array.array result = _room(n + m)
    cdef int64_t* out = <int64_t*> result.data.as_longlongs
    cdef const int64_t* a = _first(left)
    cdef const int64_t* b = _first(right)
    with nogil:
        while i < n or j < m:
            if j >= m or i < n and a[i] <= b[j]:
                out[i + j] = a[i]
                out[i + j + 1] = a[i + 1]
                i += 2
            else:
                out[i + j] = b[j]
                out[i + j + 1] = b[j + 1]
                j += 2
        count = _merge_sorted(out, n + m)
    array.resize(result, count)
    return result


def intersect(const int64_t[::1] left not None, const int64_t[::1] right not None):
    """The bytes in both of two sorted sets."""
    cdef Py_ssize_t n = _pairs_in(left), m = _pairs_in(right), i = 0, j = 0, count = 0
    cdef array.array result = _room(n + m)
    cdef int64_t* out = <int64_t*> result.data.as_longlongs
    cdef const int64_t* a = _first(left)
    cdef const int64_t* b = _first(right)
    cdef int64_t start, end
    with nogil:
        while i < n and j < m:
            start = a[i] if a[i] > b[j] else b[j]
            end = a[i + 1] if a[i + 1] < b[j + 1] else b[j + 1]
            if start < end:
                out[count] = start
                out[count + 1] = end
                count += 2
            if a[i + 1] < b[j + 1]:
                i += 2
            else:
                j += 2
    array.resize(result, count)
    return result


def subtract(const int64_t[::1] left not None, const int64_t[::1] right not None):
    """The bytes of the sorted set `left` that are not in the sorted set `right`."""
    cdef Py_ssize_t n = _pairs_in(left), m = _pairs_in(right), i, j = 0, k, count = 0
    cdef array.array result = _room(n + m)
    cdef int64_t* out = <int64_t*> result.data.as_longlongs
    cdef const int64_t* a = _first(left)
    cdef const int64_t* b = _first(right)
    cdef int64_t start
    with nogil:
        for i in range(0, n, 2):
            start = a[i]
            while j < m and b[j + 1] <= start:
                j += 2
            k = j
            while k < m and b[k] < a[i + 1]:
                if b[k] > start:
                    out[count] = start
                    out[count + 1] = b[k]
                    count += 2
                start = b[k + 1]
                k += 2
            if start < a[i + 1]:
                out[count] = start
                out[count + 1] = a[i + 1]
                count += 2
            # The range that reaches beyond this one may cut the next one too.
            j = k - 2 if k > j else j
    array.resize(result, count)
    return result


def invert(const int64_t[::1] pairs not None, int64_t start, int64_t end):
    """The bytes of [start, end) that are not in the sorted set `pairs`."""
    cdef array.array whole = _room(2 if start < end else 0)
    if start < end:
        (<int64_t*> whole.data.as_longlongs)[0] = start
        (<int64_t*> whole.data.as_longlongs)[1] = end
    return subtract(whole, pairs)


def widen(const int64_t[::1] pairs not None, int64_t unit, int64_t gap, int64_t limit):
    """The sorted set `pairs` with each range rounded outward to multiples of `unit`, cut at
    `limit`, and ranges joined that lie less than `gap` bytes apart."""
    cdef Py_ssize_t count = _pairs_in(pairs), i, kept = 0
    cdef array.array result = _room(count)
    cdef int64_t* out = <int64_t*> result.data.as_longlongs
    cdef const int64_t* source = _first(pairs)
    cdef int64_t start, end
    if unit <= 0:
        raise ValueError("ranges are rounded to a positive number of bytes")
    with nogil:
        for i in range(0, count, 2):
            start = source[i] - source[i] % unit
            # No rounding up near 2**63: the limit is lower, or the end is it.
            end = source[i + 1]
            if end % unit:
                end = limit if limit - end < unit - end % unit else end + unit - end % unit
            if end > limit:
                end = limit
            if kept and start - out[kept - 1] < gap or kept and start <= out[kept - 1]:
                if end > out[kept - 1]:
                    out[kept - 1] = end
            elif start < end:
                out[kept] = start
                out[kept + 1] = end
                kept += 2
    array.resize(result, kept)
    return result


def from_bitmap(const unsigned char[::1] bitmap not None, int64_t unit, int64_t base):
    """The set bits of `bitmap` as sorted ranges: bit n of it, least significant first, is
    `unit` bytes at base + n * unit. Raises OverflowError where an end passes 2**63."""
    cdef Py_ssize_t size = bitmap.shape[0], byte, count = 0, needed = 0
    cdef int bit, previous = 0, now
    cdef int64_t position
    cdef array.array result
    cdef int64_t* out
    if unit <= 0 or base < 0:
        raise ValueError("a bit stands for at least one byte, at an offset that is not negative")
    if size and (<int64_t> 0x7fffffffffffffff - base) // unit < 8 * size:
        raise OverflowError("the bitmap reaches beyond 2**63 bytes")
    with nogil:
        for byte in range(size):
            # Each edge between a clear and a set bit opens or closes a range.
            needed += __builtin_popcount((bitmap[byte] ^ ((bitmap[byte] << 1) | previous)) & 0xff)
            previous = bitmap[byte] >> 7
    result = _room(needed + previous)
    out = <int64_t*> result.data.as_longlongs
    with nogil:
        previous = 0
        for byte in range(size):
            if bitmap[byte] == (0xff if previous else 0):
                continue
            position = base + 8 * byte * unit
            for bit in range(8):
                now = (bitmap[byte] >> bit) & 1
                if now != previous:
                    out[count] = position
                    count += 1
                    previous = now
                position += unit
        if previous:
            out[count] = base + 8 * size * unit
            count += 1
    return result


def normalised(items, int64_t start, int64_t end, name, new_extent):
    """See `diskcopy.extents.normalised`; `new_extent` makes an Extent of a tuple."""
    cdef int64_t held = start, position = start, item_start, item_length, item_end
    cdef bint zero, hole, held_zero = False, held_hole = False
    for item_start, item_length, zero, hole in items:
        item_end = item_start + item_length
        if item_end <= start or item_length == 0:
            continue
        if position >= end:
            break
        if item_start > position or item_end <= position:
            raise Corrupt(name, f"extent {item_start}+{item_length} does not continue", offset=position)
        if zero != held_zero or hole != held_hole:
            if position > held:
                yield new_extent((held, position - held, held_zero, held_hole))
            held = position
            held_zero = zero
            held_hole = hole
        position = min(item_end, end)
    if position < end:
        raise Corrupt(name, "extents stop early", offset=position)
    if position > held:
        yield new_extent((held, position - held, held_zero, held_hole))


def total(const int64_t[::1] pairs not None):
    """The number of bytes in the sorted set `pairs`."""
    cdef Py_ssize_t count = _pairs_in(pairs), i
    cdef const int64_t* source = _first(pairs)
    cdef int64_t bytes = 0
    with nogil:
        for i in range(0, count, 2):
            bytes += source[i + 1] - source[i]
    return bytes


cdef extern from *:
    int __builtin_popcount(unsigned int) nogil
