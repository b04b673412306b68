# SPDX-License-Identifier: Apache-2.0
"""One remote file through SFTP: zeroes cross the wire as data do, and devices can only be read."""

from __future__ import annotations

import contextlib
import errno
import stat
import threading
from array import array
from collections.abc import Iterator

from diskcopy import _zero
from diskcopy.errors import Changed, Error, NotFound, Refused, SystemFailure, Unsupported, system_failure
from diskcopy.storage import naming
from diskcopy.storage.ssh.far import About, Begun, Channel, Far
from diskcopy.storage.ssh.sftp import device, protocol
from diskcopy.storage.ssh.sftp.client import IN_FLIGHT, Client, Status
from diskcopy.storage.ssh.sftp.protocol import Attributes, Fields, integer, string

_ERRNO = {
    protocol.NO_SUCH_FILE: errno.ENOENT,
    protocol.PERMISSION_DENIED: errno.EACCES,
    protocol.BAD_MESSAGE: errno.EINVAL,
    protocol.UNSUPPORTED: errno.EOPNOTSUPP,
}

_NEEDS_PYTHON = "with python3 on the host it can be done"


class SftpFar(Far):
    """A file on a host that has an SFTP server.

    durable: `flush` waits for stable storage; False where the server cannot be asked to
    (fsync@openssh.com is missing), and then `flush` does nothing

    A file in the making has a hidden name, and only its owner can read it until it has the mode of
    the file that it replaces. Whether somebody there has that file open cannot be seen through SFTP.
    """

    # Requests of 2 MiB: together all that is let on its way.
    parallel = IN_FLIGHT // (2 << 20)

    def __init__(self, channel: Channel, name: str) -> None:
        """
        channel: of a connection, with the subsystem "sftp" begun
        name: ssh://host/path, for messages

        Raises Unsupported, or an Error where what answers is no SFTP server.
        """
        self.name = name
        self._client = Client(channel, name)
        self.durable = b"fsync@openssh.com" in self._client.extensions
        self._handle = b""
        self._device_size: int | None = None
        self._temporary: bytes | None = None
        self._target = b""
        self._replaced: Attributes | None = None
        self._lock = threading.Lock()
        # Of a created file: how far it goes, and how far it was written.
        self._size = self._written = 0

    # --- reading -----------------------------------------------------------------------

    def open(self, path: str, *, locking: bool) -> About:
        """Nothing here can tell what a running guest writes to, so `locking` asks for nothing."""
        where = string(_bytes(path))
        with self._told("open"):
            # To open a FIFO would wait for somebody to write to it, on the server and so here.
            found = self._client.ask(protocol.STAT, where, protocol.ATTRIBUTES, Fields.attributes)
            self._check_source(found)
            self._handle = self._opened(where + integer(protocol.OPEN_READ) + protocol.NO_ATTRIBUTES)
        if stat.S_ISBLK(found.mode or 0):
            self._find_device_size()
        about = self.about()
        if about.size == 0:
            with self._told("read"):
                if self._client.read(self._handle, 0, memoryview(bytearray(1))):
                    raise Unsupported(self.name, "says that it is empty, and is not")
        return about

    def about(self) -> About:
        with self._told("ask about"):
            found = self._client.ask(
                protocol.FSTAT, string(self._handle), protocol.ATTRIBUTES, Fields.attributes
            )
        size = found.size if self._device_size is None else self._device_size
        if size is None:
            raise Unsupported(self.name, "the SFTP server does not tell its size", remedy=_NEEDS_PYTHON)
        is_device = self._device_size is not None
        return About(size, (found.mtime or 0) * 1_000_000_000, None, is_device, None)

    def read(self, offset: int, buffer: memoryview, unit: int) -> array[int]:
        with self._told("read"):
            got = self._client.read(self._handle, offset, buffer)
        if got < len(buffer):
            raise Error(self.name, "ends early", offset=offset + got, remedy="somebody cut it short")
        return _zero.data_runs(buffer, unit)

    def extents(self, offset: int, end: int) -> tuple[array[int], int]:
        """All of it is data: SFTP says nothing about holes."""
        return array("q", [offset, end]), end

    def digests(self, offset: int, length: int, leaf: int) -> list[bytes]:
        raise Unsupported(self.name, "SFTP computes no digests", remedy=_NEEDS_PYTHON)

    # --- writing -----------------------------------------------------------------------

    def create(self, path: str, temporary: str | None) -> Begun:
        self._target = self._resolved(path)
        self._replaced = self._replaceable(self._target)
        self.boot = self._boot()
        flags = protocol.OPEN_READ | protocol.OPEN_WRITE
        attributes = protocol.NO_ATTRIBUTES
        if temporary is None:
            folder, _, name = self._target.rpartition(b"/")
            hidden = folder + b"/" + naming.hidden(name)
            flags |= protocol.OPEN_CREATE | protocol.OPEN_EXCLUSIVE
            if self._replaced is not None:
                attributes = protocol.mode_attribute(stat.S_IRUSR | stat.S_IWUSR)
        else:
            hidden = _bytes(temporary)
            self._check_temporary(hidden)
            if self.boot is None:
                raise Changed(
                    self.name,
                    "that host may have been started anew meanwhile, and have lost what was not yet stored",
                    remedy="copy again",
                )
        with self._told("create"):
            self._handle = self._opened(string(hidden) + integer(flags) + attributes)
        self._temporary = hidden
        if temporary is not None:
            self._size = self._written = self.about().size
        return Begun(hidden.decode("utf-8", "surrogateescape"), None)

    def write(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        with self._lock:
            self._size, self._written = max(self._size, end), max(self._written, end)
        self._write(offset, buffer)

    def zero(self, offset: int, length: int, punch: bool) -> bool:
        """What a created file was never written at is zero; the rest has to be written."""
        end = offset + length
        with self._lock:
            if self._temporary is None or offset < self._written:
                return False
            longer = end > self._size
            self._size = max(self._size, end)
        if longer:
            # To set the size could undo another thread's longer write.
            self._write(end - 1, memoryview(b"\0"))
        return True

    def resize(self, size: int) -> None:
        with self._told(f"make a file of {size} bytes"):
            self._client.do(protocol.FSETSTAT, string(self._handle) + protocol.size_attribute(size))
        with self._lock:
            self._size = size

    def flush(self, *, durable: bool) -> None:
        if durable and self.durable:
            with self._told("flush"):
                self._flush(self._handle)

    def forget(self) -> None:
        """What the server has in memory stays there."""

    def commit(self, *, durable: bool) -> None:
        if self._temporary is None:
            return
        names = string(self._temporary) + string(self._target)
        with self._told("give the finished file its name"):
            self._keep_mode()
            if b"posix-rename@openssh.com" in self._client.extensions:
                self._client.do(protocol.EXTENDED, string(b"posix-rename@openssh.com") + names)
            else:
                # It is an error where there is a file of that name (section 6.5 of the draft).
                self._client.do(protocol.RENAME, names)
        self._temporary = None
        if durable:
            self._flush_folder()

    def abort(self) -> None:
        if self._temporary is None:
            return
        # Some systems do not remove what is open.
        with contextlib.suppress(Status):
            self._client.do(protocol.CLOSE, string(self._handle))
        with self._told("remove the unfinished file of"), _without(protocol.NO_SUCH_FILE):
            self._client.do(protocol.REMOVE, string(self._temporary))
        self._temporary = None

    def close(self) -> None:
        self._client.close()

    # --- how ---------------------------------------------------------------------------

    def _opened(self, fields: bytes) -> bytes:
        handle = self._client.ask(protocol.OPEN, fields, protocol.HANDLE, Fields.string)
        if len(handle) > 256:
            # Each request carries it (section 3 of the draft has the bound).
            raise Error(self.name, f"the SFTP server answers nonsense: a handle of {len(handle)} bytes")
        return handle

    def _check_source(self, found: Attributes) -> None:
        # A server that does not tell kinds apart has at least a size to be read.
        kind = stat.S_IFMT(found.mode or 0)
        if kind == stat.S_IFDIR:
            raise Refused(self.name, "is a directory")
        if kind not in (stat.S_IFREG, stat.S_IFBLK, 0):
            raise Refused(self.name, "is not a regular file")

    def _find_device_size(self) -> None:
        with self._told("find the size"):
            self._device_size = device.size(lambda offsets: self._client.reaches(self._handle, offsets))
        if self._device_size is None:
            raise Unsupported(
                self.name, "is a block device whose size SFTP does not tell", remedy=_NEEDS_PYTHON
            )

    def _resolved(self, path: str) -> bytes:
        """What `path` names: a link to a file stays a link, and that file is replaced."""
        naming.check_name(self.name, path)
        with self._told("create"):
            try:
                return self._client.ask(protocol.REALPATH, string(_bytes(path)), protocol.NAME, _only_name)
            except Status as status:
                if status.code != protocol.NO_SUCH_FILE:
                    raise
                raise NotFound(
                    self.name, "cannot create: its folder does not exist", errno=errno.ENOENT
                ) from None

    def _replaceable(self, target: bytes) -> Attributes | None:
        found = self._found(target)
        shown = target.decode("utf-8", "surrogateescape")
        if found is None:
            naming.check_target(self.name, shown, None)
            return None
        kind = stat.S_IFMT(found.mode or 0)
        if kind == stat.S_IFBLK:
            raise Unsupported(
                self.name, "is a block device, and cannot be written to through SFTP", remedy=_NEEDS_PYTHON
            )
        if kind == stat.S_IFLNK:
            raise Refused(
                self.name,
                "is a link, and the SFTP server does not follow it",
                remedy="name the file that it points to",
            )
        naming.check_target(self.name, shown, found.mode or 0)
        if b"posix-rename@openssh.com" not in self._client.extensions:
            raise Refused(
                self.name,
                "exists, and this SFTP server cannot replace a file by another at once",
                remedy="remove it first, or write to another file",
            )
        return found

    def _boot(self) -> str | None:
        """What Linux calls this run of itself; a server that shows only some of its folders cannot tell."""
        where = string(b"/proc/sys/kernel/random/boot_id")
        uuid = bytearray(36)
        try:
            # The end of the session closes it: a round trip less.
            handle = self._opened(where + integer(protocol.OPEN_READ) + protocol.NO_ATTRIBUTES)
            got = self._client.read(handle, 0, memoryview(uuid))
        except Status:
            return None
        return uuid.decode("ascii", "replace") if got == len(uuid) else None

    def _check_temporary(self, hidden: bytes) -> None:
        found = self._found(hidden)
        shown = hidden.decode("utf-8", "replace")
        if found is None:
            raise NotFound(self.name, f"its unfinished file {shown!r} is gone", errno=errno.ENOENT)
        if not stat.S_ISREG(found.mode or 0):
            raise Refused(self.name, f"its unfinished file {shown!r} was replaced by something else")

    def _found(self, path: bytes) -> Attributes | None:
        with self._told("create"):
            try:
                return self._client.ask(protocol.LSTAT, string(path), protocol.ATTRIBUTES, Fields.attributes)
            except Status as status:
                if status.code != protocol.NO_SUCH_FILE:
                    raise
                return None

    def _write(self, offset: int, buffer: memoryview) -> None:
        try:
            self._client.write(self._handle, offset, buffer)
        except Status as status:
            if status.code == protocol.FAILURE and self._is_full(len(buffer)):
                full = OSError(errno.ENOSPC, "")
                raise system_failure(self.name, "write", full, status.offset) from None
            raise self._failure("write", status) from None

    def _is_full(self, length: int) -> bool:
        """Whether that is why a write failed: the server says only that it did."""
        if b"fstatvfs@openssh.com" not in self._client.extensions:
            return False
        with contextlib.suppress(Status):
            fields = string(b"fstatvfs@openssh.com") + string(self._handle)
            return self._client.ask(protocol.EXTENDED, fields, protocol.EXTENDED_REPLY, _available) < length
        return False

    def _flush(self, handle: bytes) -> None:
        self._client.do(protocol.EXTENDED, string(b"fsync@openssh.com") + string(handle))

    def _flush_folder(self) -> None:
        """A folder can be opened to be read, and then flushed, where the system has POSIX's ways."""
        if not self.durable:
            return
        folder = self._target.rpartition(b"/")[0] or b"/"
        try:
            handle = self._opened(string(folder) + integer(protocol.OPEN_READ) + protocol.NO_ATTRIBUTES)
        except Status:
            return  # a folder that may be written and not read, or not that kind of system
        with self._told("flush the folder of"):
            self._flush(handle)

    def _keep_mode(self) -> None:
        if self._replaced is None or self._replaced.mode is None:
            return
        if self._replaced.owner is not None:
            with _without(protocol.PERMISSION_DENIED):
                owner = protocol.owner_attribute(self._replaced.owner)
                self._client.do(protocol.FSETSTAT, string(self._handle) + owner)
        mode = protocol.mode_attribute(stat.S_IMODE(self._replaced.mode))
        self._client.do(protocol.FSETSTAT, string(self._handle) + mode)

    # --- what a person reads -------------------------------------------------------------

    @contextlib.contextmanager
    def _told(self, action: str) -> Iterator[None]:
        try:
            yield
        except Status as status:
            raise self._failure(action, status) from None

    def _failure(self, action: str, status: Status) -> Error:
        code = _ERRNO.get(status.code)
        if code is not None:
            return system_failure(self.name, action, OSError(code, ""), status.offset)
        said = status.text or f"status {status.code}"
        reason = f"cannot {action}: the SFTP server says only {said!r}"
        return SystemFailure(self.name, reason, offset=status.offset)


@contextlib.contextmanager
def _without(code: int) -> Iterator[None]:
    """Take a failure of this kind for done."""
    try:
        yield
    except Status as status:
        if status.code != code:
            raise


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _only_name(fields: Fields) -> bytes:
    if fields.u32() != 1:
        raise protocol.Malformed
    return fields.string()


def _available(fields: Fields) -> int:
    """Bytes that we may still write, of a reply that is a struct statvfs."""
    _, unit, _, _, blocks = (fields.u64() for _ in range(5))
    return unit * blocks
