# SPDX-License-Identifier: Apache-2.0
"""Pipes: read once from front to back, or written so."""

from __future__ import annotations

import os

from diskcopy.errors import Error, system_failure
from diskcopy.image import Block, Image


class StreamReader(Image):
    """The bytes that come out of a descriptor; how many is known when they end."""

    size = None
    can = frozenset({"sequential"})

    def __init__(self, fd: int, name: str) -> None:
        """fd: closed with the image, unless it is one of the standard streams"""
        self.fd = fd
        self.name = name

    @classmethod
    def at(cls, path: str) -> StreamReader:
        """The stream that a path names: a FIFO, or a character device."""
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
        except OSError as failure:
            raise system_failure(path, "open", failure) from None

    def _read_next(self, buffer: memoryview) -> int:
        filled = 0
        while filled < buffer.nbytes:
            try:
                got = os.readv(self.fd, [buffer[filled:]])
            except OSError as failure:
                raise system_failure(self.name, "read", failure) from None
            if got == 0:
                break
            filled += got
        return filled

    def _close(self) -> None:
        if self.fd > 2:
            os.close(self.fd)
            self.fd = -1

    def describe(self) -> dict[str, object]:
        return {"storage": "stream"}


class StreamWriter(Image):
    """A descriptor that takes bytes in order, zeroes included."""

    block = Block(1, 1 << 20)
    can = frozenset({"sequential", "write", "resize"})

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.size = 0

    @classmethod
    def at(cls, path: str) -> StreamWriter:
        """The stream that a path names: a FIFO, or a character device."""
        try:
            return cls(os.open(path, os.O_WRONLY | os.O_CLOEXEC), path)
        except OSError as failure:
            raise system_failure(path, "open", failure) from None

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

    def _close(self) -> None:
        if self.fd > 2:
            os.close(self.fd)
            self.fd = -1

    def describe(self) -> dict[str, object]:
        return {"storage": "stream"}
