# SPDX-License-Identifier: Apache-2.0
"""The far side: sent over the connection and run there, on standard input and output.

It is one file, of Python 3.6 and its library alone, and holds one file of that host. Nothing
of it is written there; it ends when its input does.

A request is a header and a payload, and so is an answer; several of the kind DATA may come
before the one that ends a request. Numbers are big-endian, offsets and lengths bytes:

    request   id 4   operation 1   first 8   second 8   payload's length 4
    answer    id 4   kind 1        first 8              payload's length 4

    operation   first    second   payload           answer
    OPEN        locking           path              DONE: facts
    CREATE                        paths             DONE: inode that is replaced 16, path of
                                                    what is in the making
    ABOUT                                           DONE: facts
    READ        offset   length   unit 4            DATA: offset in the range, bytes; DONE
    EXTENTS     offset   end                        DONE: how far; deflated ranges
    WRITE       offset            bytes             DONE
    ZERO        offset   length   punch 1           DONE: 1 where it could
    RESIZE      size                                DONE
    FLUSH       durable                             DONE
    FORGET                                          DONE
    COMMIT      durable                             DONE
    ABORT                                           DONE
    DIGESTS     offset   length   leaf 4            DONE: 32 bytes a leaf, all zero for zeroes

Requests are taken up in order by a few threads, and answered as they are done.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import queue
import signal
import stat
import struct
import threading
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes time to import, which the far side has no use for
    from collections.abc import Callable, Iterator
    from typing import Any

HELLO = b"\0diskcopy agent 1\n"
REQUEST = struct.Struct(">IBQQI")
ANSWER = struct.Struct(">IBQI")
INODE = struct.Struct(">QQ")
(OPEN, CREATE, ABOUT, READ, EXTENTS, WRITE, ZERO, RESIZE, FLUSH, FORGET, COMMIT, ABORT, DIGESTS) = range(13)
DATA, DONE, FAILED = range(3)

# Read at a time, and looked through while it is in the processor's cache.
CHUNK = 256 << 10
# Ranges an answer holds at the most.
MOST_RANGES = 1 << 16
THREADS = 3
# Seconds for the program of a lost connection to end in.
PATIENCE = 10
# What the command that starts this program has in it, and no other.
MARK = b"exec(zlib.decompress(diskcopy))"

# Where qemu has its locks on an image: a byte for each permission that it uses, and one for each
# that it does not grant to others (block/file-posix.c, "Posix file locking").
USES, DENIES = 100, 200
MAY_READ, MAY_WRITE, MAY_RESIZE = 0, 1, 3
OFD_GETLK, OFD_SETLK = 36, 37
FLOCK = struct.Struct("@hhqqi4x")
PUNCH_HOLE, KEEP_SIZE, ZERO_RANGE = 2, 1, 16


class Refusal(Exception):
    """It could be done there and would do harm, in words for a person."""


class Failure(Exception):
    """A system call failed: what was tried, and at which byte."""

    def __init__(self, action: str, error: OSError, offset: "int | None" = None) -> None:
        super().__init__(action)
        self.action = action
        self.errno = error.errno
        self.offset = offset


class Early(Exception):
    """The file ends before the range that was asked for."""


def boot() -> "str | None":
    """Tells two starts of this system, where it says so."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return None


def tried(action: str, call: "Callable[..., Any]", *arguments: "Any") -> "Any":
    try:
        return call(*arguments)
    except OSError as error:
        raise Failure(action, error) from None


class Holder:
    """The one file, and what can be done to it."""

    def __init__(self) -> None:
        self.fd = -1
        self.temporary = None  # type: bytes | None
        self.final = b""
        libc = ctypes.CDLL(None)
        self.fallocate = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)

    # --- which file ----------------------------------------------------------------

    def open(self, path: bytes, locking: int) -> bytes:
        self.fd = tried("open", os.open, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(self.fd).st_mode
        if stat.S_ISDIR(mode):
            raise Refusal("is a directory; name the image in it")
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise Refusal("is neither a file nor a block device")
        if locking:
            self.claim(writing=False)
        return self.about()

    def create(self, path: bytes, temporary: bytes) -> bytes:
        """Begin a file that is to be called `path`, or go on with the one that was begun: the
        inode that it replaces, and where it is."""
        real = os.path.realpath(path)
        if not os.path.basename(path):
            raise Refusal("is the name of a folder; leave the slash at its end away")
        replaced = None
        try:
            replaced = os.stat(real)
        except FileNotFoundError:
            if real.startswith(b"/dev/") and not real.startswith(b"/dev/shm/"):
                raise Refusal("there is no such device, and a file would be made in its place") from None
        except OSError as error:
            raise Failure("create", error) from None
        if replaced is not None and stat.S_ISBLK(replaced.st_mode):
            self.fd = tried("open", os.open, real, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
            self.claim(writing=True)
            return INODE.pack(0, replaced.st_rdev) + real
        if replaced is not None and stat.S_ISDIR(replaced.st_mode):
            raise Refusal("is a directory; name the file to write in it")
        if replaced is not None and not stat.S_ISREG(replaced.st_mode):
            raise Refusal("is not a regular file, and would be replaced by one")
        if replaced is not None:
            # A guest that has it open would go on with it, unseen, after the rename.
            self.fd = tried("open", os.open, real, os.O_RDONLY | os.O_CLOEXEC)
            self.claim(writing=False)
            os.close(self.fd)
        self.final = real
        told = INODE.pack(replaced.st_dev, replaced.st_ino) if replaced else INODE.pack(0, 0)
        if temporary:
            self.fd = tried("open", os.open, temporary, os.O_RDWR | os.O_CLOEXEC)
            self.hold()
            self.temporary = temporary
            return told + temporary
        folder, name = os.path.split(real)
        hidden = name[:200].decode("utf-8", "ignore").encode()
        secret = b".%s.%s.diskcopy" % (hidden, os.urandom(4).hex().encode())
        hidden = os.path.join(folder, secret)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.fd = tried("create", os.open, hidden, flags, 0o666)
        self.hold()
        self.temporary = hidden
        if replaced is not None:
            try:
                os.fchown(self.fd, replaced.st_uid, replaced.st_gid)
            except PermissionError:  # only root may; the file is ours then
                replaced_mode = stat.S_IMODE(replaced.st_mode) & 0o777
            else:
                replaced_mode = stat.S_IMODE(replaced.st_mode)
            os.fchmod(self.fd, replaced_mode)
        return told + hidden

    def hold(self) -> None:
        """Be the one who writes to what is in the making.

        The program of a lost connection may still be there, where nobody has told its sshd, with
        requests to do. What it would write is old by the time that we have written.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.end_predecessor()
            except OSError:
                return None  # this filesystem has no locks
            if time.monotonic() > deadline:
                raise Refusal("an earlier copy is still at work on it there; end that first")
            time.sleep(0.05)

    def end_predecessor(self) -> None:
        mine = os.fstat(self.fd)
        for process in os.listdir("/proc") if os.path.isdir("/proc/self/fd") else []:
            # What is no process of this user's, or has just ended, cannot be looked at.
            with contextlib.suppress(OSError, ValueError):
                with open(f"/proc/{process}/cmdline", "rb") as file:
                    ours = MARK in file.read()
                if ours and int(process) != os.getpid():
                    folder = f"/proc/{process}/fd"
                    for fd in os.listdir(folder):
                        if os.path.samestat(os.stat(f"{folder}/{fd}"), mine):
                            os.kill(int(process), signal.SIGKILL)

    def claim(self, writing: bool) -> None:
        """Hold the locks of a reader or a writer; refuse where somebody's use contradicts that."""
        uses = [MAY_READ, MAY_WRITE, MAY_RESIZE] if writing else [MAY_READ]
        mine = [USES + p for p in uses] + [DENIES + p for p in (MAY_WRITE, MAY_RESIZE)]
        theirs = [USES + p for p in (MAY_WRITE, MAY_RESIZE)] + [DENIES + p for p in uses]
        try:
            for byte in mine:
                fcntl.fcntl(self.fd, OFD_SETLK, FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
            locked = [fcntl.fcntl(self.fd, OFD_GETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
                      for byte in theirs]  # fmt: skip
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise Refusal("is locked by another program; stop it first") from None
            # No such locks here (not Linux, some network filesystems): qemu goes on as well.
            return
        if any(FLOCK.unpack(found)[0] != fcntl.F_UNLCK for found in locked):
            way_out = "shut the guest down first"
            if not writing:
                way_out += ", or read it as it is with --force-share"
            raise Refusal("is in use by another process there, such as a running virtual machine; " + way_out)

    def about(self) -> bytes:
        facts = tried("look at", os.fstat, self.fd)
        device = stat.S_ISBLK(facts.st_mode)
        size = os.lseek(self.fd, 0, os.SEEK_END) if device else facts.st_size
        told = {
            "size": size,
            "mtime_ns": 0 if device else facts.st_mtime_ns,
            "inode": [0, facts.st_rdev] if device else [facts.st_dev, facts.st_ino],
            "device": device,
            "allocated": None if device else facts.st_blocks * 512,
            "boot": boot(),
        }
        return json.dumps(told).encode()

    # --- its bytes -----------------------------------------------------------------

    def pread(self, length: int, offset: int) -> bytes:
        """Exactly `length` bytes; Early where the file ends before."""
        data = b""
        while len(data) < length:
            try:
                part = os.pread(self.fd, length - len(data), offset + len(data))
            except OSError as error:
                raise Failure("read", error, offset + len(data)) from None
            if not part:
                raise Early(offset + len(data))
            data = data + part if data else part
        return data

    def read(self, offset: int, length: int, unit: int, send: "Callable[..., None]") -> None:
        step = max(unit, CHUNK - CHUNK % unit)
        for at in range(0, length, step):
            data = self.pread(min(step, length - at), offset + at)
            view = memoryview(data)
            for start, end in runs(data, unit):
                send(DATA, at + start, view[start:end])

    def write(self, offset: int, data: bytearray) -> None:
        view = memoryview(data)
        while view:
            try:
                put = os.pwrite(self.fd, view, offset)
            except OSError as error:
                raise Failure("write", error, offset) from None
            view = view[put:]
            offset += put

    def zero(self, offset: int, length: int, punch: bool) -> bool:
        for mode in ([PUNCH_HOLE | KEEP_SIZE] if punch else []) + [ZERO_RANGE | KEEP_SIZE]:
            if self.fallocate is not None and not self.fallocate(
                self.fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)
            ):
                return True
        return False

    def resize(self, size: int) -> None:
        tried(f"make a file of {size} bytes", os.ftruncate, self.fd, size)

    def extents(self, offset: int, end: int) -> "tuple[list[int], int]":
        """(ranges of data as a flat list, how far it goes)"""
        found = []  # type: list[int]
        while offset < end and len(found) < 2 * MOST_RANGES:
            try:
                start = os.lseek(self.fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return found, end
                if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    return [*found, offset, end], end
                raise Failure("find data", error, offset) from None
            if start >= end:
                return found, end
            try:
                offset = os.lseek(self.fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise Failure("find data", error, start) from None
                offset = end
            if offset <= start or offset > end:
                offset = end
            found += [start, offset]
        return found, min(offset, end)

    def digests(self, offset: int, length: int, leaf: int) -> bytes:
        told = []
        for at in range(offset, offset + length, leaf):
            data = self.pread(min(leaf, offset + length - at), at)
            if data.count(0) == len(data):
                told.append(bytes(32))
                continue
            digest = hashlib.sha256(data)
            digest.update(bytes(leaf - len(data)))
            told.append(digest.digest())
        return b"".join(told)

    # --- the end -------------------------------------------------------------------

    def flush(self, durable: int) -> None:
        if durable:
            tried("flush", os.fsync, self.fd)

    def forget(self) -> None:
        """What was written is read from the storage next, not from memory."""
        tried("flush", os.fsync, self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def commit(self, durable: int) -> None:
        if self.temporary is None:
            return
        tried("give the finished file its name", os.replace, self.temporary, self.final)
        self.temporary = None
        if durable:
            folder = os.open(os.path.dirname(self.final), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                tried("flush the folder", os.fsync, folder)
            finally:
                os.close(folder)

    def abort(self) -> None:
        if self.temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)
            self.temporary = None


def runs(data: bytes, unit: int) -> "Iterator[tuple[int, int]]":
    """The runs (start, end) of blocks of `unit` bytes that are not all zero."""
    zeroes = bytes(unit)
    size = len(data)
    start = None
    for at in range(0, size, unit):
        if size - at < unit:
            zeroes = bytes(size - at)
        if data.startswith(zeroes, at):
            if start is not None:
                yield start, at
                start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, size


class Server:
    """Takes requests from one descriptor and answers on another."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.holder = Holder()
        self.requests = queue.Queue(2 * THREADS)  # type: queue.Queue[Any]
        self.sending = threading.Lock()

    def run(self) -> None:
        self.put(HELLO)
        for _ in range(THREADS):
            threading.Thread(target=self.work, daemon=True).start()
        while True:
            header = REQUEST.unpack(self.take(REQUEST.size))
            self.requests.put((header, self.take(header[4])))

    def take(self, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            got = os.readv(self.source, [view])
            if got == 0:
                # Nobody is there any more, and nothing of us stays.
                os._exit(0)
            view = view[got:]
        return data

    def put(self, *parts: "bytes | memoryview") -> None:
        with self.sending:
            views = [memoryview(part) for part in parts if part]
            try:
                while views:
                    sent = os.writev(self.target, views)
                    while views and sent >= len(views[0]):
                        sent -= len(views.pop(0))
                    if views:
                        views[0] = views[0][sent:]
            except OSError:
                os._exit(0)

    def work(self) -> None:
        while True:
            (number, operation, first, second, _), payload = self.requests.get()

            def send(
                kind: int, first: int, payload: "bytes | memoryview" = b"", number: int = number
            ) -> None:
                self.put(ANSWER.pack(number, kind, first, len(payload)), payload)

            try:
                send(DONE, *self.answer(operation, first, second, payload, send))
            except Early as early:
                send(FAILED, early.args[0], json.dumps({"early": True}).encode())
            except Refusal as refusal:
                send(FAILED, 0, json.dumps({"refused": refusal.args[0]}).encode())
            except Failure as failure:
                told = {"errno": failure.errno, "action": failure.action, "offset": failure.offset}
                send(FAILED, 0, json.dumps(told).encode())
            except Exception as wrong:  # whatever it was, the one who asked must not wait for ever
                send(FAILED, 0, json.dumps({"refused": f"the far side failed: {wrong!r}"}).encode())

    def answer(
        self, operation: int, first: int, second: int, payload: bytearray, send: "Callable[..., None]"
    ) -> "tuple[int, bytes]":
        """Do what is asked: (first number, payload) of the answer."""
        holder = self.holder
        if operation == READ:
            holder.read(first, second, struct.unpack(">I", payload)[0], send)
        elif operation == WRITE:
            holder.write(first, payload)
        elif operation == EXTENTS:
            found, reached = holder.extents(first, second)
            return reached, zlib.compress(struct.pack(f">{len(found)}q", *found), 1)
        elif operation == ZERO:
            return int(holder.zero(first, second, payload == b"\1")), b""
        elif operation == DIGESTS:
            return 0, holder.digests(first, second, struct.unpack(">I", payload)[0])
        elif operation == OPEN:
            return 0, holder.open(bytes(payload), first)
        elif operation == CREATE:
            return 0, holder.create(*bytes(payload).split(b"\0"))
        elif operation == ABOUT:
            return 0, holder.about()
        elif operation == RESIZE:
            holder.resize(first)
        elif operation == FLUSH:
            holder.flush(first)
        elif operation == FORGET:
            holder.forget()
        elif operation == COMMIT:
            holder.commit(first)
        elif operation == ABORT:
            holder.abort()
        return 0, b""


if __name__ == "__main__":
    Server(0, 1).run()
