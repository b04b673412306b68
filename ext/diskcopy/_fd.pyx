# SPDX-License-Identifier: Apache-2.0
"""Positional, full-or-raise I/O on file descriptors that knows where files are sparse.

Every function releases the GIL around its system calls, goes on after short
transfers and EINTR, and raises FdFailure with the offset where a call failed.
"""

cimport cython
from cpython cimport array
from libc.errno cimport EINTR, EINVAL, EIO, ENODEV, ENOSYS, ENOTTY, ENXIO, EOPNOTSUPP, EPERM, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
import array as _array

from diskcopy._zero cimport next_data
from diskcopy.errors import FdFailure

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void* buffer, size_t size, int64_t offset)
    ssize_t pwrite(int fd, const void* buffer, size_t size, int64_t offset)
    int64_t lseek(int fd, int64_t offset, int whence)
    int SEEK_DATA, SEEK_HOLE, SEEK_END

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, int64_t offset, int64_t length)
    int FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
    int sync_file_range(int fd, int64_t offset, int64_t length, unsigned int flags)
    unsigned int SYNC_FILE_RANGE_WRITE

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/fs.h>" nogil:
    unsigned long BLKZEROOUT, FICLONE

# What a storage answers when it has no such operation, rather than when it failed.
cdef bint _refused(int code) noexcept nogil:
    return code in (EOPNOTSUPP, ENOSYS, EINVAL, ENODEV, ENOTTY, EPERM)


cdef enum Action:
    READ
    WRITE
    SEEK
    ZERO

ACTIONS = ("read", "write", "find data", "zero")


cdef struct Failure:
    int code
    Action action
    int64_t offset


cdef inline int _fail(Failure* failure, int code, Action action, int64_t offset) noexcept nogil:
    failure.code = code
    failure.action = action
    failure.offset = offset
    return -1


cdef _raise(const Failure* failure):
    raise FdFailure(failure.code, ACTIONS[failure.action], failure.offset)


cdef ssize_t _read(int fd, uint8_t* buffer, size_t size, int64_t offset, Failure* failure) noexcept nogil:
    """Bytes read: fewer than `size` only at the end of the file; -1 on failure."""
    cdef size_t done = 0
    cdef ssize_t got
    while done < size:
        got = pread(fd, buffer + done, size - done, offset + done)
        if got > 0:
            done += got
        elif got == 0:
            break
        elif errno != EINTR:
            return _fail(failure, errno, READ, offset + done)
    return done


cdef int _write(int fd, const uint8_t* buffer, size_t size, int64_t offset, Failure* failure) noexcept nogil:
    cdef size_t done = 0
    cdef ssize_t put
    while done < size:
        put = pwrite(fd, buffer + done, size - done, offset + done)
        if put > 0:
            done += put
        elif put == 0:
            # POSIX leaves it open; a device at its end answers so, and would for ever.
            return _fail(failure, EIO, WRITE, offset + done)
        elif errno != EINTR:
            return _fail(failure, errno, WRITE, offset + done)
    return 0


cdef struct Range:
    int64_t start
    int64_t stop


cdef int _next_data(int fd, int64_t position, int64_t end, int64_t* start, int64_t* stop, Range* known,
                    Failure* failure) noexcept nogil:
    """1 and the bounds of the next data in [position, end); 0 where only a hole is left; -1 on failure.

    `known` is the data last found, or an empty range.
    """
    cdef int64_t size, found
    if known.start <= position < known.stop:
        start[0] = position
        stop[0] = min(known.stop, end)
        return position < end
    found = lseek(fd, position, SEEK_DATA)
    if found < 0:
        if errno == ENXIO:
            # A hole to the end of the file, or past the end of one that was cut meanwhile.
            size = lseek(fd, 0, SEEK_END)
            if size < end:
                return _fail(failure, errno if size < 0 else 0, READ, size)
            return 0
        if errno == EINVAL or errno == EOPNOTSUPP:
            # No such question here (some FUSE and network filesystems): all of it is data.
            start[0] = position
            stop[0] = end
            return position < end
        return _fail(failure, errno, SEEK, position)
    if found >= end:
        return 0
    start[0] = found
    found = lseek(fd, found, SEEK_HOLE)
    if found < 0:
        if errno != ENXIO:
            return _fail(failure, errno, SEEK, start[0])
        # Somebody cut the file meanwhile; the read will find out.
        found = end
    if found <= start[0]:
        # Punched between the two questions, or a filesystem that does not go on: reading is always right.
        found = end
    known.start = start[0]
    known.stop = found
    stop[0] = min(found, end)
    return 1


@cython.final
cdef class KnownData:
    """The range of a file that was last found to be data.

    SEEK_HOLE goes through all of a file's extents up to the next hole, however far that is.
    A file that is walked in parts keeps one of these, so that a terabyte of data in a
    hundred thousand extents is gone through once and not once a part. That the range is
    data is all that is remembered: reading a hole that it has become meanwhile is right too.
    """

    cdef Range range


def read_into(int fd, unsigned char[::1] buffer not None, int64_t offset):
    """Fill `buffer` from `offset`; the number of bytes read, fewer only where the file ends."""
    cdef Failure failure
    cdef ssize_t got
    if buffer.shape[0] == 0:
        return 0
    with nogil:
        got = _read(fd, &buffer[0], buffer.shape[0], offset, &failure)
    if got < 0:
        _raise(&failure)
    return got


def write_from(int fd, const unsigned char[::1] buffer not None, int64_t offset):
    """Write all of `buffer` at `offset`."""
    cdef Failure failure
    cdef int result
    if buffer.shape[0] == 0:
        return
    with nogil:
        result = _write(fd, &buffer[0], buffer.shape[0], offset, &failure)
    if result < 0:
        _raise(&failure)


def data_ranges(int fd, int64_t start, int64_t end, Py_ssize_t most, KnownData known=None):
    """Where [start, end) of a file has data, by SEEK_DATA and SEEK_HOLE, without reading it.

    Returns (pairs, position): up to `most` ranges as array('q') start0, end0, ..., and how
    far the walk came: `end`, or less where `most` ran out. Raises FdFailure, with errno 0
    where the file ends before `end`. A file walked in parts is given one `known` for all.
    """
    cdef array.array pairs = array.clone(_array.array("q"), 2 * most, zero=False)
    cdef int64_t* out = <int64_t*> pairs.data.as_longlongs
    cdef Py_ssize_t count = 0
    cdef int64_t position = start, data, stop
    cdef int found = 1
    cdef Failure failure
    # Other threads may have the same one: worked on as a copy while the GIL is not held.
    known = known or KnownData()
    cdef Range last = known.range
    with nogil:
        while position < end and count < most:
            found = _next_data(fd, position, end, &data, &stop, &last, &failure)
            if found <= 0:
                break
            out[2 * count] = data
            out[2 * count + 1] = stop
            count += 1
            position = stop
    known.range = last
    if found < 0:
        _raise(&failure)
    array.resize(pairs, 2 * count)
    return pairs, (end if found == 0 else position)


cdef int _try_punch(int fd, int64_t offset, int64_t length) noexcept nogil:
    """0 where the range reads as zeroes and takes no space now; an errno otherwise.

    On block devices this is a discard that promises zeroes; the kernel refuses it where
    the device cannot.
    """
    while fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0:
        if errno != EINTR:
            return errno
    return 0


cdef int _try_zero(int fd, int64_t offset, int64_t length) noexcept nogil:
    """0 where the range reads as zeroes now, its space kept; an errno otherwise."""
    cdef uint64_t span[2]
    span[0] = offset
    span[1] = length
    while fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length) != 0:
        if errno == EINTR:
            continue
        if not _refused(errno):
            return errno
        while ioctl(fd, BLKZEROOUT, span) != 0:
            if errno != EINTR:
                return errno
        break
    return 0


cdef const uint8_t[65536] NOUGHT


cdef int _write_zeroes(int fd, int64_t start, int64_t end, Failure* failure) noexcept nogil:
    cdef int64_t step
    while start < end:
        step = min(<int64_t> sizeof(NOUGHT), end - start)
        if _write(fd, NOUGHT, step, start, failure) < 0:
            return -1
        start += step
    return 0


cdef int _call_zero(int fd, int64_t start, int64_t end, bint punch) noexcept nogil:
    cdef int code = EOPNOTSUPP
    if punch:
        code = _try_punch(fd, start, end - start)
    if code and _refused(code):
        code = _try_zero(fd, start, end - start)
    return code


cdef int _make_zero(int fd, int64_t start, int64_t end, bint punch, Failure* failure) noexcept nogil:
    """Zero a range by the cheapest means the descriptor has."""
    # Block devices refuse what is not aligned to their sectors, 4096 bytes at the most.
    cdef int64_t inner_start = (start + 4095) & ~(<int64_t> 4095)
    cdef int64_t inner_end = end & ~(<int64_t> 4095)
    cdef int code = _call_zero(fd, start, end, punch)
    if code == 0:
        return 0
    if code == EINVAL and inner_start < inner_end and (start < inner_start or inner_end < end):
        code = _call_zero(fd, inner_start, inner_end, punch)
        if code == 0:
            if _write_zeroes(fd, start, inner_start, failure) < 0:
                return -1
            return _write_zeroes(fd, inner_end, end, failure)
    if not _refused(code):
        return _fail(failure, code, ZERO, start)
    return _write_zeroes(fd, start, end, failure)


def make_zero(int fd, int64_t start, int64_t end, bint punch):
    """Make [start, end) read as zeroes: as a hole where `punch` and the storage allow it,
    else by a zeroing call, else by writing zeroes."""
    cdef Failure failure
    cdef int result
    if start >= end:
        return
    with nogil:
        result = _make_zero(fd, start, end, punch, &failure)
    if result < 0:
        _raise(&failure)


def start_writeback(int fd, int64_t offset, int64_t length):
    """Begin to write a range's dirty pages out, so that a later fsync finds little to do.

    A hint: a storage without it, or an error that the fsync will report, is passed over.
    """
    with nogil:
        sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE)


def clone(int source, int target):
    """Make the file `target` share all the blocks of `source` (a reflink). False where the
    filesystem has none of that, or the two lie on different ones."""
    cdef int result
    with nogil:
        result = ioctl(target, FICLONE, source)
    return result == 0


def copy_range(int source, int target, int64_t start, int64_t end, unsigned char[::1] buffer not None,
               size_t granularity, bint detect_zeroes, bint target_is_zero, KnownData known=None):
    """Copy what is data in [start, end) from one descriptor to another, at the same offsets.

    Finds the data, reads it through `buffer`, and writes the blocks of `granularity` bytes
    that are not all zero (all of them without `detect_zeroes`). The rest is left alone
    where the target is zero already, and made zero otherwise.

    Returns (data, zero, hole, error): bytes written as data, found to be zero, and skipped
    as hole. `error` is None, or the FdFailure that ended the copy early, its action telling
    the side ("read" and "find data" are the source's). A source that ends before `end` is
    such a failure, with errno 0. A file copied in parts is given one `known` for all.
    """
    cdef int64_t position = start, data_start, data_stop, offset, data = 0, zeroes = 0, hole = 0
    cdef size_t run_start, run_end, at, step
    cdef ssize_t got
    cdef uint8_t* memory
    cdef int found
    cdef Failure failure
    if <size_t> buffer.shape[0] < granularity or granularity == 0:
        raise ValueError("the buffer holds at least one block")
    memory = &buffer[0]
    # Whole blocks only, so that a zero run is not cut by the buffer's end.
    cdef size_t room = buffer.shape[0] - buffer.shape[0] % granularity
    known = known or KnownData()
    cdef Range last = known.range
    failure.code = -1
    with nogil:
        while position < end:
            found = _next_data(source, position, end, &data_start, &data_stop, &last, &failure)
            if found < 0:
                break
            if found == 0:
                data_start = data_stop = end
            if data_start > position:
                hole += data_start - position
                if not target_is_zero and _make_zero(target, position, data_start, True, &failure) < 0:
                    break
            offset = data_start
            while offset < data_stop:
                step = <size_t> min(<int64_t> room, data_stop - offset)
                got = _read(source, memory, step, offset, &failure)
                if got >= 0 and <size_t> got < step:
                    got = _fail(&failure, 0, READ, offset + got)
                if got < 0:
                    break
                at = 0
                while at < step:
                    if not detect_zeroes:
                        run_start = at
                        run_end = step
                    elif not next_data(memory, at, step, granularity, &run_start, &run_end):
                        run_start = run_end = step
                    if run_start > at:
                        zeroes += run_start - at
                        if (not target_is_zero and
                                _make_zero(target, offset + at, offset + run_start, True, &failure) < 0):
                            break
                    if run_end > run_start:
                        if _write(target, memory + run_start, run_end - run_start, offset + run_start,
                                  &failure) < 0:
                            break
                        data += run_end - run_start
                    at = run_end
                if at < step:
                    break
                offset += step
            if offset < data_stop:
                break
            position = data_stop
    known.range = last
    error = None
    if position < end:
        error = FdFailure(failure.code, ACTIONS[failure.action], failure.offset)
    return data, zeroes, hole, error
