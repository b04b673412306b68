# SPDX-License-Identifier: Apache-2.0
"""What can go wrong: each error names the image, the offset, the reason, and the way out.

Every class is an `Error`, so a program catches one type; those that stand for a
failed system call are the matching `OSError` as well and keep its `errno`.
"""

from __future__ import annotations

import errno as _errno
import os


class Error(Exception):
    """A person has to know this: one line that says what failed, where, and what to do.

    name:   the image or host it happened to
    reason: what is wrong, in words
    offset: the byte of `name` where, if there is one
    remedy: what to do about it, if something can be done
    """

    def __init__(
        self, name: str, reason: str, *, offset: int | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason
        self.offset = offset
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.name}: {self.reason}"
        if self.offset is not None:
            text += f" at offset {self.offset}"
        if self.remedy:
            text += f"; {self.remedy}"
        return text


class UsageError(Error):
    """What was asked for makes no sense, whatever the disk holds."""


class WrongFormat(Error):
    """The bytes are not of the format that was tried; another may fit."""


class Unsupported(Error):
    """Recognised, but not something diskcopy can do with this image."""


class Corrupt(Error):
    """The image contradicts itself or its format."""


class Refused(Error):
    """It could be done and would do harm: same file, held device, running guest, too small."""


class Changed(Error):
    """A source was written to while it was being read."""


class Mismatch(Error):
    """What was read back is not what was written."""


class Cancelled(Error):
    """The caller asked for the work to stop."""


class Unreachable(Error):
    """A host cannot be reached, or does not let us in."""


class Disconnected(Unreachable):
    """A connection was lost; what was asked may be asked again through a new one."""


class SystemFailure(Error, OSError):
    """A system call failed; `errno` says how."""

    def __init__(
        self,
        name: str,
        reason: str,
        *,
        errno: int = _errno.EIO,
        offset: int | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(name, reason, offset=offset, remedy=remedy)
        self.errno = errno


class NotFound(SystemFailure, FileNotFoundError):
    """There is nothing by that name."""


class NotPermitted(SystemFailure, PermissionError):
    """The operating system does not let us."""


class NoSpace(SystemFailure):
    """The target's storage is full."""


class FdFailure(OSError):
    """A kernel's system call failed on a descriptor: `offset` and `action` say where and at what.

    Compiled code raises this; the storage that owns the descriptor turns it into a
    `SystemFailure` with a name, through `system_failure`.
    """

    def __init__(self, errno: int, action: str, offset: int) -> None:
        super().__init__(errno, os.strerror(errno))
        self.action = action
        self.offset = offset


def system_failure(name: str, action: str, failure: OSError, offset: int | None = None) -> SystemFailure:
    """The error a person reads for `failure`, met while doing `action` ("read", "write", ...) on `name`."""
    code = failure.errno or _errno.EIO
    text = os.strerror(code).lower()
    reason = f"cannot {action}: {text}"
    if isinstance(failure, FdFailure) and offset is None:
        offset = failure.offset
    if code in (_errno.ENOENT, _errno.ENOTDIR):
        return NotFound(name, reason, errno=code, offset=offset)
    if code in (_errno.EACCES, _errno.EPERM, _errno.EROFS):
        return NotPermitted(name, reason, errno=code, offset=offset)
    if code in (_errno.ENOSPC, _errno.EDQUOT):
        remedy = "free some space, or use another target"
        return NoSpace(name, reason, errno=code, offset=offset, remedy=remedy)
    return SystemFailure(name, reason, errno=code, offset=offset)
