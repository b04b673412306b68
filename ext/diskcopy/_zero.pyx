# SPDX-License-Identifier: Apache-2.0
"""Where a buffer is zero, and where two buffers differ."""

from cpython cimport array
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp
import array as _array

cdef extern from "zero_scan.h" nogil:
    ctypedef size_t (*zero_scan_fn)(const uint8_t* memory, size_t size)
    zero_scan_fn zero_scan_by_name(const char* name)

NAMES = ("avx2", "sse2", "portable")

cdef array.array EMPTY = _array.array("q")
cdef zero_scan_fn scanner = NULL
cdef str scanner_name = ""


def kernels():
    """The names of the scanners that this processor can run, the fastest first."""
    return tuple(name for name in NAMES if zero_scan_by_name(name.encode()) != NULL)


def kernel():
    """The name of the scanner in use."""
    return scanner_name


def use_kernel(str name not None):
    """Scan with the named kernel from now on. Raises ValueError where it cannot run here:
    a silent replacement would be measured under a wrong name."""
    global scanner, scanner_name
    cdef zero_scan_fn found = zero_scan_by_name(name.encode())
    if found == NULL:
        raise ValueError(f"no zero scan called {name!r} on this processor; there is {', '.join(kernels())}")
    scanner = found
    scanner_name = name


use_kernel(kernels()[0])


cdef bint block_is_zero(const uint8_t* block, size_t size) noexcept nogil:
    return scanner(block, size) == size


cdef bint next_data(const uint8_t* buffer, size_t position, size_t size, size_t granularity,
                    size_t* start, size_t* end) noexcept nogil:
    cdef size_t step, zeroes = scanner(buffer + position, size - position)
    if zeroes == size - position:
        return False
    position += zeroes - zeroes % granularity
    start[0] = position
    position += min(granularity, size - position)
    while position < size:
        step = min(granularity, size - position)
        if scanner(buffer + position, step) == step:
            break
        position += step
    end[0] = position
    return True


def is_zero(const unsigned char[::1] buffer not None):
    """Whether every byte of `buffer` is zero; true for an empty one."""
    cdef size_t size = buffer.shape[0]
    cdef bint answer
    if size == 0:
        return True
    with nogil:
        answer = scanner(&buffer[0], size) == size
    return answer


def data_runs(const unsigned char[::1] buffer not None, size_t granularity=4096):
    """The runs of blocks that are not all zero: array('q') start0, end0, start1, ... in bytes.

    `buffer` is cut into blocks of `granularity` bytes, the last of which may be short.
    Raises ValueError for a granularity of 0.
    """
    cdef size_t size = buffer.shape[0], position = 0, start, end
    cdef array.array result
    cdef int64_t* out
    cdef Py_ssize_t count = 0
    if granularity == 0:
        raise ValueError("a block has at least one byte")
    if size == 0:
        return array.clone(EMPTY, 0, zero=False)
    # Every other block at the most begins a run.
    result = array.clone(EMPTY, 2 * ((size // granularity + 2) // 2), zero=False)
    out = <int64_t*> result.data.as_longlongs
    with nogil:
        while next_data(&buffer[0], position, size, granularity, &start, &end):
            out[count] = start
            out[count + 1] = end
            count += 2
            position = end
    array.resize(result, count)
    return result


def first_difference(const unsigned char[::1] left not None, const unsigned char[::1] right not None):
    """The index of the first byte in which two buffers of one length differ, or -1."""
    cdef size_t size = left.shape[0], position = 0, step
    cdef const uint8_t* a
    cdef const uint8_t* b
    if left.shape[0] != right.shape[0]:
        raise ValueError("buffers of two lengths cannot be compared byte by byte")
    if size == 0:
        return -1
    a = &left[0]
    b = &right[0]
    with nogil:
        while position < size:
            step = min(<size_t> 4096, size - position)
            if memcmp(a + position, b + position, step) != 0:
                while a[position] == b[position]:
                    position += 1
                break
            position += step
    return position if position < size else -1
