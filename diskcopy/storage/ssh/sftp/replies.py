# SPDX-License-Identifier: Apache-2.0
"""A stream of bytes cut into replies, the data of each laid straight where they belong."""

from __future__ import annotations

import struct
from collections.abc import Callable

from diskcopy.storage.ssh.sftp import protocol
from diskcopy.storage.ssh.sftp.protocol import DATA, NAMES

# What every implementation takes (section 3 of the draft). Of a DATA reply the request sets the bound.
_LONGEST = 34000

_HEAD = struct.Struct(">IBI")


class Nonsense(Exception):
    """The server sent what cannot be a reply to what was asked."""


class Request:
    """One request, and what came back.

    kind, fields: what is asked: the packet's type, and what follows its id
    data: what a WRITE carries behind that
    expects: the types of reply that make sense
    room: where the bytes of a DATA reply go
    id: None for INIT, whose reply has none
    reply: the type of the reply, 0 before there is one
    number: the id that came back; of VERSION, the version
    body: the reply's fields; of DATA nothing
    got: how many bytes of `room` were filled
    """

    __slots__ = ("body", "data", "expects", "fields", "got", "id", "kind", "number", "reply", "room", "told")

    def __init__(
        self,
        kind: int,
        fields: bytes,
        expects: tuple[int, ...],
        *,
        data: memoryview | None = None,
        room: memoryview | None = None,
    ) -> None:
        self.kind = kind
        self.fields = fields
        self.data = data
        self.expects = expects
        self.room = room
        self.id: int | None = None
        self.told: Callable[[], None]
        self.reply = 0
        self.number = 0
        self.body = bytearray()
        self.got = 0


class Replies:
    """Takes what a channel receives, in pieces of any size, and finishes requests with it."""

    def __init__(
        self, asked: Callable[[int, int], Request | None], answered: Callable[[Request], None]
    ) -> None:
        """
        asked: the request that a reply of this type and id is for, if there is one
        answered: called with each request when its reply is complete
        """
        self._asked = asked
        self._answered = answered
        self._head = bytearray(_HEAD.size)
        self._count = bytearray(4)
        self._request: Request | None = None
        self._kind = self._length = 0
        # What comes next goes into _room; when that is full, _full says what it was and where to go on.
        self._room = memoryview(self._head)
        self._full: Callable[[], memoryview] = self._have_head

    def feed(self, chunk: memoryview) -> None:
        """Raises Nonsense; after that the stream cannot be understood any more."""
        while chunk:
            step = min(len(chunk), len(self._room))
            self._room[:step] = chunk[:step]
            self._room, chunk = self._room[step:], chunk[step:]
            while not self._room:
                self._room = self._full()

    def divert(self, request: Request) -> None:
        """From now on leave the room of `request` alone: nobody waits for its data."""
        assert request.room is not None
        request.room = memoryview(bytearray(len(request.room)))
        if self._request is request and self._kind == DATA and self._full == self._finish:
            self._room = request.room[: len(self._room)]

    def _have_head(self) -> memoryview:
        self._length, self._kind, number = _HEAD.unpack(self._head)
        what = NAMES.get(self._kind, f"a packet of type {self._kind}")
        request = self._asked(self._kind, number)
        if request is None:
            raise Nonsense(f"{what} to request {number}, which was not asked ({bytes(self._head)!r})")
        if self._kind not in request.expects:
            raise Nonsense(f"{what} to a request of type {request.kind}")
        if self._length < 5 or (self._kind != DATA and self._length > _LONGEST):
            raise Nonsense(f"{what} of {self._length} bytes")
        self._request = request
        request.number = number
        if self._kind == DATA:
            self._full = self._have_count
            return memoryview(self._count)
        self._full = self._finish
        request.body = bytearray(self._length - 5)
        return memoryview(request.body)

    def _have_count(self) -> memoryview:
        assert self._request is not None
        assert self._request.room is not None
        count = int.from_bytes(self._count, "big")
        asked = len(self._request.room)
        if not 0 < count <= asked or count + 9 != self._length:
            raise Nonsense(f"DATA of {count} bytes in a packet of {self._length}, where {asked} were asked")
        self._request.got = count
        self._full = self._finish
        return self._request.room[:count]

    def _finish(self) -> memoryview:
        assert self._request is not None
        self._request.reply = self._kind
        request, self._request = self._request, None
        self._full = self._have_head
        self._answered(request)
        return memoryview(self._head)


def packet(request: Request) -> bytes:
    """The bytes that ask it, up to its data."""
    number = protocol.VERSION if request.id is None else request.id
    follows = len(request.data) if request.data is not None else 0
    return protocol.head(request.kind, number, len(request.fields) + follows) + request.fields
