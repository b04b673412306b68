# SPDX-License-Identifier: Apache-2.0
"""Pipes: read once from front to back, or written so."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from diskcopy.errors import Error, system_failure
from diskcopy.image import Block, Image

if TYPE_CHECKING:
    from typing_extensions import Self

# Milliseconds that nothing may come before the reader looks up.
_PATIENCE = 100

# What an unprivileged process may make of a pipe, which holds 64 KiB at first.
_PIPE = 1 << 20


class _Stream(Image):
    """A descriptor that bytes pass in order; closed with the image, unless it is a standard stream."""

    _flags: int

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        _widen(fd)

    @classmethod
    def at(cls, path: str) -> Self:
        """The stream that a path names: a FIFO, or a character device."""
        try:
            return cls(os.open(path, cls._flags | os.O_CLOEXEC), path)
        except OSError as failure:
            raise system_failure(path, "open", failure) from None

    def _close(self) -> None:
        if self.fd > 2:
            os.close(self.fd)
            self.fd = -1

    def describe(self) -> dict[str, object]:
        return {"storage": "stream"}


class StreamReader(_Stream):
    """The bytes that come out of a descriptor; how many is known when they end."""

    size = None
    can = frozenset({"sequential"})
    _flags = os.O_RDONLY

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, name)
        self._arrivals = select.poll()
        self._arrivals.register(fd, select.POLLIN)

    def _read_next(self, buffer: memoryview, check: Callable[[], None]) -> int:
        filled = 0
        while filled < buffer.nbytes:
            # A pipe may be silent for hours, and its reader must not be deaf meanwhile.
            while not self._arrivals.poll(_PATIENCE):
                check()
            try:
                got = os.readv(self.fd, [buffer[filled:]])
            except OSError as failure:
                raise system_failure(self.name, "read", failure) from None
            if got == 0:
                break
            filled += got
        return filled


class StreamWriter(_Stream):
    """A descriptor that takes bytes in order, zeroes included."""

    block = Block(1, 1 << 20)
    can = frozenset({"sequential", "write", "resize"})
    _flags = os.O_WRONLY

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, name)
        self.size = 0

    def _write(self, offset: int, buffer: memoryview) -> None:
        if offset != self.size:
            raise Error(self.name, "is a stream and takes bytes in order only", offset=offset)
        while buffer.nbytes:
            try:
                put = os.writev(self.fd, [buffer])
            except OSError as failure:
                raise system_failure(self.name, "write", failure, self.size) from None
            self.size += put
            buffer = buffer[put:]

    def _resize(self, size: int) -> None:
        if size != self.size:
            raise Error(self.name, f"is a stream of {self.size} bytes and cannot become {size}")


def _widen(fd: int) -> None:
    """Let a pipe hold a whole request, where the system allows it: fewer turns of both its ends."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
