# SPDX-License-Identifier: Apache-2.0
"""qemu's image locks, spoken as qemu does, so that a running guest's disk is noticed.

A process that opens an image holds shared byte-range locks (open file description
locks) on the file: byte 100 + p for each permission p that it uses, byte 200 + p for
each that it does not grant to others. Whoever comes next looks for locks that
contradict its own (qemu, block/file-posix.c, "Posix file locking").
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct

from diskcopy.errors import Refused, system_failure

log = logging.getLogger("diskcopy")

_USES, _DENIES = 100, 200
_READ, _WRITE, _RESIZE = 0, 1, 3
# No lock manager here (some network and FUSE filesystems): qemu goes on as well.
_UNLOCKABLE = (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def claim(fd: int, name: str, *, writing: bool) -> None:
    """Hold the locks of a reader or writer on `fd` until it is closed.

    A reader lets nobody write meanwhile. Raises Refused where another process uses the
    image in a way that contradicts this.
    """
    uses = [_READ, _WRITE, _RESIZE] if writing else [_READ]
    try:
        for byte in [*(_USES + p for p in uses), *(_DENIES + p for p in (_WRITE, _RESIZE))]:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_RDLCK, byte))
        taken = [_USES + p for p in (_WRITE, _RESIZE)] + [_DENIES + p for p in uses]
        busy = next((byte for byte in taken if _is_locked(fd, byte)), None)
    except OSError as failure:
        if failure.errno in (errno.EAGAIN, errno.EACCES):
            # qemu's locks are shared ones; this is another program's, on all of the file.
            raise Refused(name, "is locked by another program", remedy="stop it first") from None
        if failure.errno not in _UNLOCKABLE:
            raise system_failure(name, "lock", failure) from None
        log.debug("%s: this filesystem has no locks: %s", name, failure)
        return
    if busy is not None:
        doing = "is open for writing in" if busy < _DENIES else "is kept for itself by"
        remedy = "shut the guest down first"
        if not writing:
            remedy += ", or read it as it is with --force-share"
        raise Refused(name, f"{doing} another process, such as a running virtual machine", remedy=remedy)


def _lock(kind: int, byte: int) -> bytes:
    # struct flock of 64-bit Linux: type, whence, start, length, pid (0 for these locks).
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)


def _is_locked(fd: int, byte: int) -> bool:
    """Whether another open file description holds any lock on the byte."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK, byte))
    kind: int = struct.unpack_from("h", answer)[0]
    return kind != fcntl.F_UNLCK
