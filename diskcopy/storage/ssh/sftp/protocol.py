# SPDX-License-Identifier: Apache-2.0
"""The packets of SFTP version 3: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL for extensions."""

from __future__ import annotations

import struct
from typing import NamedTuple

VERSION = 3

# What we send, and what comes back (section 3).
(INIT, VERSION_REPLY, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT) = range(1, 11)
(REMOVE, REALPATH, STAT, RENAME, EXTENDED) = 13, 16, 17, 18, 200
(STATUS, HANDLE, DATA, NAME, ATTRIBUTES, EXTENDED_REPLY) = 101, 102, 103, 104, 105, 201

NAMES = {
    VERSION_REPLY: "VERSION",
    STATUS: "STATUS",
    HANDLE: "HANDLE",
    DATA: "DATA",
    NAME: "NAME",
    ATTRIBUTES: "ATTRS",
    EXTENDED_REPLY: "EXTENDED_REPLY",
}

# Of a STATUS (section 7).
(
    OK,
    EOF,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    FAILURE,
    BAD_MESSAGE,
    NO_CONNECTION,
    CONNECTION_LOST,
    UNSUPPORTED,
) = range(9)

# Of an OPEN (section 6.3).
OPEN_READ, OPEN_WRITE, OPEN_CREATE, OPEN_EXCLUSIVE = 0x01, 0x02, 0x08, 0x20

# Which attributes there are (section 5).
_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES = 0x1, 0x2, 0x4, 0x8

_HEAD = struct.Struct(">IBI")
_LONG = struct.Struct(">Q")
_INT = struct.Struct(">I")
_RANGE = struct.Struct(">QI")


class Malformed(Exception):
    """A reply does not hold what its type promises."""


class Attributes(NamedTuple):
    """What a server says of a file; None where it does not say.

    size: bytes; 0 of a device
    mode: permissions, and with every server we know the kind of file, as st_mode
    owner: user and group
    mtime: seconds
    """

    size: int | None
    mode: int | None
    owner: tuple[int, int] | None
    mtime: int | None


class Fields:
    """The fields of a reply, one after the other; raises Malformed where it ends before they do."""

    def __init__(self, body: bytes | bytearray) -> None:
        self._body = body
        self._at = 0

    def more(self) -> bool:
        return self._at < len(self._body)

    def _take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if self._at > len(self._body):
            raise Malformed
        return bytes(self._body[start : self._at])

    def u32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        return self._take(int.from_bytes(self._take(4), "big"))

    def attributes(self) -> Attributes:
        size = mode = owner = mtime = None
        flags = self.u32()
        if flags & _HAS_SIZE:
            size = self.u64()
        if flags & _HAS_OWNER:
            owner = self.u32(), self.u32()
        if flags & _HAS_MODE:
            mode = self.u32()
        if flags & _HAS_TIMES:
            self.u32()
            mtime = self.u32()
        return Attributes(size, mode, owner, mtime)


def head(kind: int, number: int, length: int) -> bytes:
    """How a packet begins: `number` is its id, and of INIT the version; `length` bytes follow."""
    return _HEAD.pack(5 + length, kind, number)


def string(content: bytes) -> bytes:
    return _INT.pack(len(content)) + content


def integer(value: int) -> bytes:
    return _INT.pack(value)


def range_fields(handle: bytes, offset: int, length: int) -> bytes:
    """What a READ holds, and a WRITE before its `length` bytes of data."""
    return string(handle) + _RANGE.pack(offset, length)


def size_attribute(size: int) -> bytes:
    return _INT.pack(_HAS_SIZE) + _LONG.pack(size)


def mode_attribute(mode: int) -> bytes:
    return struct.pack(">II", _HAS_MODE, mode)


def owner_attribute(owner: tuple[int, int]) -> bytes:
    return struct.pack(">III", _HAS_OWNER, *owner)


NO_ATTRIBUTES = _INT.pack(0)
