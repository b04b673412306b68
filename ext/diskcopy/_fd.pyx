# SPDX-License-Identifier: Apache-2.0
"""Positional, full-or-raise I/O on file descriptors that knows where files are sparse.

Every function releases the GIL around its system calls, goes on after short
transfers and EINTR, and raises FdFailure with the offset where a call failed.
"""

cimport cython
from cpython cimport array
from libc.errno cimport EINTR, EINVAL, EIO, ENODEV, ENOSYS, ENOTTY, ENXIO, EOPNOTSUPP, EPERM, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp
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

cdef extern from "<sys/vfs.h>" nogil:
    ctypedef struct Statfs "struct statfs":
        long f_type
    int fstatfs(int fd, Statfs* about)

cdef extern from "<linux/magic.h>" nogil:
    long EXT4_SUPER_MAGIC

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


# Bytes a call. A write of 2 MiB makes the page cache look for huge pages, and takes up to twice
# the time where memory is not free in such pieces (measured on ext4, Linux 6.18).
cdef enum: WRITE_MOST = 256 * 1024

# Bytes read before they are looked at: what stays in a core's own cache.
cdef enum: SCAN_MOST = 256 * 1024

# Bytes that are worth a call before they are written.
cdef enum: RESERVE_LEAST = 64 * 1024

cdef void _reserve(int fd, int64_t offset, size_t size) noexcept nogil:
    """Give a range that is about to be written its blocks, where that makes the writing cheaper.

    Without, ext4 decides about every 4 KiB block of a write by itself, under the lock that keeps
    other writers out: half as much again as the whole write takes with it. A hint: a write
    that cannot have its blocks says so itself.
    """
    cdef Statfs about
    if size >= RESERVE_LEAST and fstatfs(fd, &about) == 0 and about.f_type == EXT4_SUPER_MAGIC:
        fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, size)


cdef int _write(int fd, const uint8_t* buffer, size_t size, int64_t offset, Failure* failure) noexcept nogil:
    cdef size_t done = 0
    cdef ssize_t put
    _reserve(fd, offset, size)
    while done < size:
        put = pwrite(fd, buffer + done, min(size - done, <size_t> WRITE_MOST), offset + done)
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


def read_runs(int fd, unsigned char[::1] buffer not None, int64_t offset, size_t granularity):
    """Fill `buffer` from `offset`, and find its data while it is in the core's own cache.

    Returns (got, runs): the bytes read, fewer only where the file ends, and where they are not
    all zero, as `_zero.data_runs` has it.
    """
    cdef Failure failure
    cdef size_t size = buffer.shape[0], done = 0, step, position, start, end
    cdef ssize_t got = 0
    cdef Py_ssize_t count = 0
    if granularity == 0:
        raise ValueError("a block has at least one byte")
    cdef size_t room = max(granularity, SCAN_MOST - SCAN_MOST % granularity)
    cdef array.array runs = array.clone(_array.array("q"), 2 * ((size // granularity + 2) // 2), zero=False)
    cdef int64_t* out = <int64_t*> runs.data.as_longlongs
    with nogil:
        while done < size:
            step = min(room, size - done)
            got = _read(fd, &buffer[done], step, offset + done, &failure)
            if got < 0:
                break
            position = done
            while position < done + got and next_data(&buffer[0], position, done + got, granularity, &start, &end):
                if count and out[count - 1] == <int64_t> start:
                    out[count - 1] = end
                else:
                    out[count] = start
                    out[count + 1] = end
                    count += 2
                position = end
            done += got
            if <size_t> got < step:
                break
    if got < 0:
        _raise(&failure)
    array.resize(runs, count)
    return done, runs


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


cdef struct Copy:
    int source
    int target
    uint8_t* buffer
    size_t granularity
    bint detect_zeroes
    bint target_is_zero
    # The disk's bytes that the buffer holds, on their way to the target.
    int64_t start
    size_t filled
    int64_t data
    int64_t zeroes
    int64_t hole


cdef int _zero_out(Copy* copy, int64_t start, int64_t end, Failure* failure) noexcept nogil:
    if copy.target_is_zero or start == end:
        return 0
    return _make_zero(copy.target, start, end, True, failure)


cdef int _drain(Copy* copy, Failure* failure) noexcept nogil:
    """Settle the bytes in the buffer in the target, and empty it."""
    cdef size_t at = 0, run_start, run_end, size = copy.filled
    while at < size:
        if not copy.detect_zeroes:
            run_start = at
            run_end = size
        elif not next_data(copy.buffer, at, size, copy.granularity, &run_start, &run_end):
            run_start = run_end = size
        if _zero_out(copy, copy.start + at, copy.start + run_start, failure) < 0:
            return -1
        copy.zeroes += run_start - at
        if run_end > run_start:
            if _write(copy.target, copy.buffer + run_start, run_end - run_start, copy.start + run_start,
                      failure) < 0:
                return -1
            copy.data += run_end - run_start
        at = run_end
    copy.start += size
    copy.filled = 0
    return 0


cdef int _fill(Copy* copy, size_t room, int64_t offset, int64_t end, int64_t place,
               Failure* failure) noexcept nogil:
    """Bring the source's [offset, end) to `place`, through the buffer, which may keep a part of it."""
    cdef size_t step
    cdef ssize_t got
    if copy.start + <int64_t> copy.filled != place:
        if _drain(copy, failure) < 0:
            return -1
        copy.start = place
    while offset < end:
        step = <size_t> min(<int64_t> (room - copy.filled), end - offset)
        got = _read(copy.source, copy.buffer + copy.filled, step, offset, failure)
        if got >= 0 and <size_t> got < step:
            got = _fail(failure, 0, READ, offset + got)
        if got < 0:
            return -1
        copy.filled += step
        offset += step
        if copy.filled == room and _drain(copy, failure) < 0:
            return -1
    return 0


cdef int _copy_piece(Copy* copy, size_t room, int64_t start, int64_t end, int64_t place, Range* known,
                     Failure* failure) noexcept nogil:
    """Bring the source's [start, end) to `place`: its holes made zero, its data through the buffer."""
    cdef int64_t position = start, data_start, data_stop
    cdef int found
    while position < end:
        found = _next_data(copy.source, position, end, &data_start, &data_stop, known, failure)
        if found < 0:
            return -1
        if found == 0:
            data_start = data_stop = end
        if data_start > position:
            if _zero_out(copy, place + position - start, place + data_start - start, failure) < 0:
                return -1
            copy.hole += data_start - position
        if data_stop > data_start and _fill(copy, room, data_start, data_stop, place + data_start - start,
                                            failure) < 0:
            return -1
        position = data_stop
    return 0


@cython.boundscheck(False)
def copy_pieces(int source, int target, const int64_t[::1] pieces not None,
                unsigned char[::1] buffer not None, size_t granularity, bint detect_zeroes,
                bint target_is_zero, KnownData known=None):
    """Copy what is data in pieces of one descriptor to places in another.

    pieces: three numbers for each, place, length and offset: where it goes in the target, its
        bytes, and where it lies in the source

    Finds the data, gathers through `buffer` what goes to one place, and writes the blocks of
    `granularity` bytes that are not all zero (all of them without `detect_zeroes`). The rest is
    left alone where the target is zero already, and made zero otherwise.

    Returns (data, zero, hole, error): bytes written as data, found to be zero, and skipped
    as hole. `error` is None, or the FdFailure that ended the copy early, its action telling
    the side ("read" and "find data" are the source's), its offset one of that side. A source
    that ends within a piece is such a failure, with errno 0. A file copied in parts is given
    one `known` for all.
    """
    cdef Copy copy
    cdef Failure failure
    cdef Py_ssize_t index, count = pieces.shape[0] // 3
    cdef int result = 0
    if <size_t> buffer.shape[0] < granularity or granularity == 0:
        raise ValueError("the buffer holds at least one block")
    if pieces.shape[0] % 3:
        raise ValueError("a piece is three numbers")
    # Whole blocks only, so that a zero run is not cut by the buffer's end.
    cdef size_t room = buffer.shape[0] - buffer.shape[0] % granularity
    known = known or KnownData()
    # Other threads may have the same one: worked on as a copy while the GIL is not held.
    cdef Range last = known.range
    copy.source = source
    copy.target = target
    copy.buffer = &buffer[0]
    copy.granularity = granularity
    copy.detect_zeroes = detect_zeroes
    copy.target_is_zero = target_is_zero
    copy.start = 0
    copy.filled = 0
    copy.data = copy.zeroes = copy.hole = 0
    with nogil:
        for index in range(count):
            result = _copy_piece(&copy, room, pieces[3 * index + 2],
                                 pieces[3 * index + 2] + pieces[3 * index + 1], pieces[3 * index],
                                 &last, &failure)
            if result < 0:
                break
        if result == 0:
            result = _drain(&copy, &failure)
    known.range = last
    error = None
    if result < 0:
        error = FdFailure(failure.code, ACTIONS[failure.action], failure.offset)
    return copy.data, copy.zeroes, copy.hole, error


@cython.boundscheck(False)
def same_pieces(int left, int right, const int64_t[::1] pieces not None, unsigned char[::1] buffer not None):
    """How many bytes of pieces of two descriptors are the same before the first that is not sure to be.

    pieces: four numbers for each, place, length and the two offsets; they are gone through in order

    Stops in front of a block of up to 4096 bytes that differs, or cannot be read: whoever asks
    looks at that one by other means, and meets what is wrong with it.
    """
    cdef Py_ssize_t index, count = pieces.shape[0] // 4
    cdef size_t step, at, part, room = buffer.shape[0] // 2
    cdef int64_t done = 0, offset, length
    cdef uint8_t* a
    cdef uint8_t* b
    cdef bint same = True
    cdef Failure failure
    if room == 0 or pieces.shape[0] % 4:
        raise ValueError("a piece is four numbers, and the buffer holds two bytes at least")
    a = &buffer[0]
    b = a + room
    with nogil:
        for index in range(count):
            length = pieces[4 * index + 1]
            offset = 0
            while same and offset < length:
                step = <size_t> min(<int64_t> room, length - offset)
                if (_read(left, a, step, pieces[4 * index + 2] + offset, &failure) < <ssize_t> step or
                        _read(right, b, step, pieces[4 * index + 3] + offset, &failure) < <ssize_t> step):
                    step = 0
                at = 0
                while at < step:
                    part = min(<size_t> 4096, step - at)
                    if memcmp(a + at, b + at, part) != 0:
                        break
                    at += part
                same = at == step and step > 0
                done += at
                offset += at
            if not same:
                break
    return done
