# SPDX-License-Identifier: Apache-2.0
"""Regular files: read with their holes, written in place, or created to appear when complete."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from array import array
from collections.abc import Iterator

from diskcopy import _fd
from diskcopy.errors import Changed, Error, FdFailure, NotFound, Refused, Unsupported, system_failure
from diskcopy.extents import Facts
from diskcopy.image import Block, Image, Lineage
from diskcopy.storage import locks, naming

# Ranges asked of the filesystem at a time: few at first, since many callers want the
# next one only, then more and more.
_FIRST_WALK, _LONGEST_WALK = 4, 4096


class Descriptor(Image):
    """An image whose byte n is byte n of a file descriptor: what files and block devices share."""

    # Holes begin and end at filesystem blocks, 4 KiB nearly everywhere.
    block = Block(1, 4096)

    def __init__(self, fd: int, name: str, *, writable: bool) -> None:
        self.fd = fd
        self.name = name
        self._known_data = _fd.KnownData()
        self.can = frozenset({"read", "extents", "write", "reread"} if writable else {"read", "extents"})

    def fileno(self) -> int | None:
        return self.fd

    def _readinto(self, offset: int, buffer: memoryview) -> None:
        try:
            got = _fd.read_into(self.fd, buffer, offset)
        except FdFailure as failure:
            raise system_failure(self.name, "read", failure) from None
        if got < buffer.nbytes:
            raise self._ends_early(offset + got)

    def _read_runs(self, offset: int, buffer: memoryview, unit: int) -> array[int]:
        try:
            got, runs = _fd.read_runs(self.fd, buffer, offset, unit)
        except FdFailure as failure:
            raise system_failure(self.name, "read", failure) from None
        if got < buffer.nbytes:
            raise self._ends_early(offset + got)
        return runs

    def _extents(self, offset: int, length: int) -> Iterator[Facts]:
        end = offset + length
        walk = _FIRST_WALK
        while offset < end:
            try:
                pairs, reached = _fd.data_ranges(self.fd, offset, end, walk, self._known_data)
            except FdFailure as failure:
                if failure.errno == 0:
                    raise self._ends_early(failure.offset) from None
                raise system_failure(self.name, "find data", failure) from None
            walk = min(4 * walk, _LONGEST_WALK)
            ranges = iter(pairs)
            for start, stop in zip(ranges, ranges, strict=True):
                if start > offset:
                    yield offset, start - offset, True, True
                yield start, stop - start, False, False
                offset = stop
            if reached > offset:
                yield offset, reached - offset, True, True
                offset = reached

    def _ends_early(self, offset: int) -> Error:
        return Error(self.name, "ends early", offset=offset, remedy="somebody cut it short")

    def _write(self, offset: int, buffer: memoryview) -> None:
        try:
            _fd.write_from(self.fd, buffer, offset)
        except FdFailure as failure:
            raise system_failure(self.name, "write", failure) from None

    def _zero(self, offset: int, length: int, punch: bool) -> bool:
        try:
            _fd.make_zero(self.fd, offset, offset + length, punch)
        except FdFailure as failure:
            raise system_failure(self.name, "zero", failure) from None
        return True

    def _start_writeback(self, offset: int, length: int) -> None:
        _fd.start_writeback(self.fd, offset, length)

    def _flush(self) -> None:
        try:
            os.fsync(self.fd)
        except OSError as failure:
            raise system_failure(self.name, "flush", failure) from None

    def _reread(self) -> Image:
        """The same descriptor, its pages dropped from memory: the next read comes from the storage."""
        Descriptor._flush(self)  # pages that are not yet stored would stay, whatever a subclass flushes
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return self

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class File(Descriptor):
    """A regular file that exists, opened to be read, or written in place."""

    def __init__(self, path: str, *, writable: bool = False, locking: bool = True) -> None:
        """Raises NotFound, NotPermitted, or Refused where another process has the image in use."""
        # O_NONBLOCK changes nothing for a regular file; a FIFO without a writer would wait for one.
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(path, flags)
        except OSError as failure:
            raise system_failure(path, "open", failure) from None
        super().__init__(fd, path, writable=writable)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Refused(path, "is not a regular file")
            if os.fstat(fd).st_size == 0:
                _check_empty(fd, path)
            if locking:
                locks.claim(fd, path, writing=writable)
        except BaseException:
            os.close(fd)
            raise
        about = os.fstat(fd)
        self.size = about.st_size
        self._state = (about.st_size, about.st_mtime_ns)
        self._writable = writable

    def identity(self) -> frozenset[Lineage]:
        return frozenset({(file_identity(os.fstat(self.fd)),)})

    def check_unchanged(self) -> None:
        about = os.fstat(self.fd)
        if not self._writable and (about.st_size, about.st_mtime_ns) != self._state:
            raise Changed(
                self.name, "was written to while it was read", remedy="stop what writes to it, and copy again"
            )

    def describe(self) -> dict[str, object]:
        about = os.fstat(self.fd)
        return {"storage": "file", "size": about.st_size, "allocated": about.st_blocks * 512}


class NewFile(Descriptor):
    """A file in the making: it has no name until `commit`, and nothing of it stays without.

    It is an unnamed file of the target's folder (O_TMPFILE) where the filesystem has
    those, so that even a killed process leaves nothing; a hidden one beside the target
    elsewhere. An existing regular file of the name is replaced whole, and keeps its mode.
    """

    is_zero = True

    def __init__(
        self, path: str, size: int | None = None, *, preallocate: bool = False, durable: bool = True
    ) -> None:
        """
        size: bytes; None where the writer will `resize` it
        preallocate: reserve the space for all of `size` now
        durable: `flush` waits for stable storage; otherwise that is left to the kernel
        """
        # A link to the image stays a link; what it names is replaced.
        target = os.path.realpath(path)
        self._folder_name, self._file_name = os.path.split(target)
        self._temporary: str | None = None
        self._durable = durable
        self._done = False
        replaced = _replaceable(path, target)
        _check_name(path)
        try:
            self._folder = os.open(self._folder_name or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as failure:
            raise system_failure(path, f"open the folder {self._folder_name!r} of", failure) from None
        try:
            super().__init__(self._create(path), path, writable=True)
        except BaseException:
            os.close(self._folder)
            raise
        self.can |= {"resize"} if size is None else set()
        # Blocks shared with another file are not reserved.
        self.can |= set() if preallocate else {"clone"}
        self._fixed_size = size
        try:
            if replaced is not None:
                _keep_mode(self.fd, replaced)
            if size:
                self._reserve(size, preallocate)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return os.fstat(self.fd).st_size if self._fixed_size is None else self._fixed_size

    def describe(self) -> dict[str, object]:
        about = os.fstat(self.fd)
        return {"storage": "file", "size": about.st_size, "allocated": about.st_blocks * 512}

    def _create(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            try:
                return os.open(".", flags | os.O_TMPFILE, 0o666, dir_fd=self._folder)
            except OSError as failure:
                if failure.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                    raise
            self._temporary = self._hidden_name()
            return os.open(self._temporary, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._folder)
        except OSError as failure:
            raise system_failure(path, "create", failure) from None

    def _hidden_name(self) -> str:
        return os.fsdecode(naming.hidden(os.fsencode(self._file_name)))

    def _reserve(self, size: int, preallocate: bool) -> None:
        try:
            os.ftruncate(self.fd, size)
            if preallocate:
                os.posix_fallocate(self.fd, 0, size)
        except OSError as failure:
            raise system_failure(self.name, f"make a file of {size} bytes", failure) from None
        except OverflowError:
            raise Unsupported(self.name, f"a file cannot have {size} bytes") from None

    def _resize(self, size: int) -> None:
        self._reserve(size, preallocate=False)

    def _zero(self, offset: int, length: int, punch: bool) -> bool:
        super()._zero(offset, length, punch)
        end = offset + length
        if self._fixed_size is None and os.fstat(self.fd).st_size < end:
            # Zeroing calls keep the size. Setting it could undo another thread's longer write.
            self._write(end - 1, memoryview(b"\0"))
        return True

    def _start_writeback(self, offset: int, length: int) -> None:
        if self._durable:
            super()._start_writeback(offset, length)

    def _flush(self) -> None:
        if self._durable:
            super()._flush()

    def _commit(self) -> None:
        if self._done:
            return
        try:
            if self._temporary is None:
                self._link(self._file_name)
            if self._temporary is not None:
                os.replace(self._temporary, self._file_name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
                self._temporary = None
            if self._durable:
                self._flush_folder()
        except OSError as failure:
            raise system_failure(self.name, "give the finished file its name", failure) from None
        self._done = True

    def _link(self, name: str) -> None:
        """Give the unnamed file its name, or where that is taken, a hidden one to rename."""
        source = f"/proc/self/fd/{self.fd}"
        try:
            os.link(source, name, dst_dir_fd=self._folder, follow_symlinks=True)
        except FileExistsError:
            hidden = self._hidden_name()
            os.link(source, hidden, dst_dir_fd=self._folder, follow_symlinks=True)
            self._temporary = hidden

    def _flush_folder(self) -> None:
        # The descriptor of the folder was opened for its path alone and cannot be flushed.
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._folder)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _abort(self) -> None:
        if self._temporary is not None and not self._done:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._folder)
            self._temporary = None

    def _close(self) -> None:
        if self.fd >= 0:
            self._abort()
            os.close(self._folder)
            super()._close()


def file_identity(about: os.stat_result) -> tuple[str, int, int]:
    """What tells two names of one regular file: its filesystem and inode."""
    return ("inode", about.st_dev, about.st_ino)


def _check_empty(fd: int, path: str) -> None:
    """Raise where a file of size 0 has content: some in /proc and of FUSE do."""
    try:
        content = os.pread(fd, 1, 0)
    except OSError as failure:
        raise system_failure(path, "read", failure) from None
    if content:
        raise Unsupported(path, "says that it is empty, and is not", remedy="send its content through a pipe")


def _replaceable(path: str, target: str) -> os.stat_result | None:
    """The existing file that would be replaced, if any; raises where it must not be."""
    try:
        about = os.stat(target)
    except FileNotFoundError:
        naming.check_target(path, target, None)
        if not os.path.isdir(os.path.dirname(target)):
            raise NotFound(path, "cannot create: its folder does not exist", errno=errno.ENOENT) from None
        return None
    except OSError as failure:
        raise system_failure(path, "create", failure) from None
    naming.check_target(path, target, about.st_mode)
    # A guest that has the old file open would go on with it, unseen, after the rename.
    try:
        with File(target):
            return about
    except Refused as refusal:
        raise Refused(path, refusal.reason, remedy="shut it down first, or write to another file") from None


def _check_name(path: str) -> None:
    """Raise where the system finds no file at `path`: realpath takes "image/" and
    "nowhere/../image" for names of the image."""
    naming.check_name(path, path)
    try:
        os.stat(os.path.join(os.path.dirname(path), "."))
    except OSError as failure:
        raise system_failure(path, "create", failure) from None


def _keep_mode(fd: int, replaced: os.stat_result) -> None:
    with contextlib.suppress(PermissionError):
        os.fchown(fd, replaced.st_uid, replaced.st_gid)
    os.fchmod(fd, stat.S_IMODE(replaced.st_mode))
