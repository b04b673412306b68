# SPDX-License-Identifier: Apache-2.0
"""The conversation with an SFTP server: requests of many threads out, replies to who waits for them.

One thread receives, and does nothing else: the server can always get rid of its replies, so it can
always take more requests, and nobody waits in a circle. Whoever asks sends for himself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from diskcopy.errors import Disconnected, Error, Unsupported
from diskcopy.storage.ssh.far import Channel
from diskcopy.storage.ssh.sftp import protocol
from diskcopy.storage.ssh.sftp.protocol import DATA, STATUS, Fields, Malformed
from diskcopy.storage.ssh.sftp.replies import Nonsense, Replies, Request, packet

T = TypeVar("T")

# What a server without limits@openssh.com takes (section 3 of the draft: packets of 34000 bytes), and
# the most we use of what others offer.
_SMALLEST, _LARGEST = 32 << 10, 256 << 10
# Bytes asked for and not yet there, of all callers: a link of 1 Gbit/s holds 25 MB in a round trip of
# 200 ms. Each request counts as _SMALLEST at least, so that there are no more than 1024 of them.
IN_FLIGHT = 32 << 20
# How much of that is claimed, and sent, at a time.
_VOLLEY = 2 << 20
# Packets smaller than this are sent together.
_TOGETHER = 256 << 10


class Status(Exception):
    """The server says that a request failed.

    code, text: as it says it
    offset: the byte of the file that the request began at
    """

    def __init__(self, code: int, text: str, offset: int | None = None) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text
        self.offset = offset


class _Batch:
    """Requests that one caller waits for together."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.done = threading.Event()

    def answered(self) -> None:
        self._left -= 1
        if not self._left:
            self.done.set()


class Client:
    """One SFTP session over an open channel. Every method is safe from several threads at once.

    extensions: what the server offers, its names and versions
    read_size, write_size: the largest request of each kind, in bytes

    All methods raise Disconnected where the channel ended, Status where the server says no, and an
    Error where it answers nonsense, which ends the session.
    """

    def __init__(self, channel: Channel, name: str) -> None:
        self.name = name
        self.extensions: dict[bytes, bytes] = {}
        self.read_size = self.write_size = _SMALLEST
        self._channel = channel
        self._sending = threading.Lock()
        # What follows is shared with the receiver, under this lock, and told through it.
        self._changed = threading.Condition()
        self._awaited: dict[int | None, Request] = {}
        self._replies = Replies(self._find, self._answered)
        self._last_id = 0
        self._in_flight = 0
        self._waiting = 0
        self._greeted = False
        self._broken: Callable[[], Error] | None = None
        self._receiver = threading.Thread(target=self._receive, name=f"sftp {name}", daemon=True)
        self._receiver.start()
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    # --- what can be asked -------------------------------------------------------------

    def ask(self, kind: int, fields: bytes, expected: int, parse: Callable[[Fields], T]) -> T:
        """Ask one thing, and take its reply apart."""
        request = Request(kind, fields, (expected, STATUS))
        self._converse([request])
        status = self._status(request)
        if status is not None:
            raise status
        if request.reply != expected:
            raise self._nonsense(f"OK to a request of type {kind}")
        return self._parse(request, parse)

    def do(self, kind: int, fields: bytes) -> None:
        """Ask for something that has no result."""
        request = Request(kind, fields, (STATUS,))
        self._converse([request])
        status = self._status(request)
        if status is not None:
            raise status

    def read(self, handle: bytes, offset: int, buffer: memoryview) -> int:
        """Fill `buffer`; how many bytes, fewer only where the file ends."""
        end = len(buffer)
        pieces = list(_cut(end, self.read_size))
        while pieces:
            requests = [
                Request(
                    protocol.READ,
                    protocol.range_fields(handle, offset + start, stop - start),
                    (DATA, STATUS),
                    room=buffer[start:stop],
                )
                for start, stop in pieces
            ]
            self._converse(requests)
            rest = []
            for (start, stop), request in zip(pieces, requests, strict=True):
                if request.reply == DATA:
                    if request.got < stop - start:
                        rest.append((start + request.got, stop))
                    continue
                status = self._status(request, offset + start)
                if status is None:
                    raise self._nonsense("OK to a READ")
                if status.code != protocol.EOF:
                    raise status
                end = min(end, start)
            pieces = [piece for piece in rest if piece[0] < end]
        return end

    def reaches(self, handle: bytes, offsets: list[int]) -> list[bool]:
        """At which of the offsets there is a byte that can be read."""
        requests = [
            Request(
                protocol.READ,
                protocol.range_fields(handle, offset, 1),
                (DATA, STATUS),
                room=memoryview(bytearray(1)),
            )
            for offset in offsets
        ]
        self._converse(requests)
        for offset, request in zip(offsets, requests, strict=True):
            status = self._status(request, offset)
            # Beyond the end of a device a server reads nothing, or cannot even go there (EINVAL).
            if status is not None and status.code not in (protocol.EOF, protocol.BAD_MESSAGE):
                raise status
        return [request.reply == DATA for request in requests]

    def write(self, handle: bytes, offset: int, buffer: memoryview) -> None:
        """Write all of `buffer`; the Status of the first part that failed."""
        pieces = list(_cut(len(buffer), self.write_size))
        requests = [
            Request(
                protocol.WRITE,
                protocol.range_fields(handle, offset + start, stop - start),
                (STATUS,),
                data=buffer[start:stop],
            )
            for start, stop in pieces
        ]
        self._converse(requests)
        for (start, _), request in zip(pieces, requests, strict=True):
            status = self._status(request, offset + start)
            if status is not None:
                raise status

    def close(self) -> None:
        """End the session; who still waits for something in it may ask again in another."""
        self._break(lambda: Disconnected(self.name, "is closed"))
        self._receiver.join()

    # --- the beginning -----------------------------------------------------------------

    def _greet(self) -> None:
        request = Request(protocol.INIT, b"", (protocol.VERSION_REPLY,))
        self._converse([request])
        if request.number != protocol.VERSION:
            raise Unsupported(self.name, f"the server speaks version {request.number} of SFTP, not 3")
        self._greeted = True
        self.extensions = self._parse(request, _extensions)
        if b"limits@openssh.com" in self.extensions:
            _, read, write, _ = self.ask(
                protocol.EXTENDED,
                protocol.string(b"limits@openssh.com"),
                protocol.EXTENDED_REPLY,
                lambda fields: (fields.u64(), fields.u64(), fields.u64(), fields.u64()),
            )
            self.read_size = min(max(read, _SMALLEST), _LARGEST)
            self.write_size = min(max(write, _SMALLEST), _LARGEST)

    # --- asking ------------------------------------------------------------------------

    def _converse(self, requests: list[Request]) -> None:
        """Send requests, and wait until each has its reply."""
        if not requests:
            return
        batch = _Batch(len(requests))
        try:
            for volley in _volleys(requests):
                self._admit(volley, batch)
                self._send(volley)
            batch.done.wait()
        except BaseException:
            self._forget(requests)
            raise
        if not all(request.reply for request in requests):
            raise self._ending()

    def _admit(self, volley: list[Request], batch: _Batch) -> None:
        """Wait for room on the wire, and expect the replies from now on."""
        cost = sum(map(_cost, volley))
        with self._changed:
            self._waiting += 1
            try:
                while self._broken is None and self._in_flight and self._in_flight + cost > IN_FLIGHT:
                    self._changed.wait()
            finally:
                self._waiting -= 1
            if self._broken is not None:
                raise self._broken()
            self._in_flight += cost
            for request in volley:
                if request.kind != protocol.INIT:
                    self._last_id = request.id = (self._last_id + 1) & 0xFFFFFFFF
                request.told = batch.answered
                self._awaited[request.id] = request

    def _send(self, volley: list[Request]) -> None:
        parts: list[bytes | memoryview] = []
        size = 0
        try:
            for request in volley:
                head = packet(request)
                parts.append(head)
                size += len(head)
                if request.data is not None:
                    parts.append(request.data)
                    size += len(request.data)
                if size >= _TOGETHER or request is volley[-1]:
                    whole = b"".join(parts)
                    with self._sending:
                        self._channel.sendall(whole)
                    parts, size = [], 0
        except BaseException as failure:
            # Part of a packet may be on its way: nothing can be sent after it. What a channel raises
            # is its own matter (OSError, SSHException, EOFError).
            self._break(self._lost(failure))
            if isinstance(failure, Exception):
                raise self._ending() from None
            raise

    def _forget(self, requests: list[Request]) -> None:
        """Nobody waits for these any more: their buffers belong to the caller again."""
        with self._changed:
            for request in requests if self._broken is None else []:
                if request.room is not None and not request.reply:
                    self._replies.divert(request)

    # --- receiving ---------------------------------------------------------------------

    def _receive(self) -> None:
        try:
            # Asking a channel for less than there is makes it move the rest, each time.
            while chunk := self._channel.recv(2 * IN_FLIGHT):
                with self._changed:
                    if self._broken is not None:
                        return
                    self._replies.feed(memoryview(chunk))
            self._break(self._lost(None))
        except Nonsense as nonsense:
            what = str(nonsense)
            self._break(lambda: self._nonsense(what))
        except Exception as failure:  # whatever this kind of channel raises when it is at its end
            self._break(self._lost(failure))

    def _find(self, kind: int, number: int) -> Request | None:
        return self._awaited.get(None if kind == protocol.VERSION_REPLY else number)

    def _answered(self, request: Request) -> None:
        del self._awaited[request.id]
        self._in_flight -= _cost(request)
        if self._waiting:
            self._changed.notify_all()
        request.told()

    # --- the end -----------------------------------------------------------------------

    def _break(self, ending: Callable[[], Error]) -> None:
        """Nothing is sent or received any more; everybody who waits is told `ending`."""
        with self._changed:
            if self._broken is None:
                self._broken = ending
            # A batch is done when its last reply is there: this ends the wait for those that never come.
            for request in self._awaited.values():
                request.told()
            self._awaited.clear()
            self._changed.notify_all()
        self._channel.close()

    def _ending(self) -> Error:
        assert self._broken is not None
        return self._broken()

    def _lost(self, failure: BaseException | None) -> Callable[[], Error]:
        reason = "the connection was lost"
        if not self._greeted:
            reason = "the SFTP server ended before it began"
        if failure is not None and str(failure) not in reason:
            reason += f" ({failure})"
        return lambda: Disconnected(self.name, reason)

    def _nonsense(self, what: str) -> Error:
        if not self._greeted:
            return Error(
                self.name,
                f"what answers is not an SFTP server: {what}",
                remedy="see that no login script there prints text where there is no terminal",
            )
        return Error(self.name, f"the SFTP server answers nonsense: {what}")

    def _parse(self, request: Request, parse: Callable[[Fields], T]) -> T:
        try:
            return parse(Fields(request.body))
        except Malformed:
            raise self._nonsense(f"{protocol.NAMES[request.reply]} of {len(request.body)} bytes") from None

    def _status(self, request: Request, offset: int | None = None) -> Status | None:
        """What a STATUS says, None where it or another reply says that all is well."""
        if request.reply != STATUS:
            return None
        # Some servers of version 3 leave the text away.
        code, text = self._parse(
            request, lambda fields: (fields.u32(), fields.string() if fields.more() else b"")
        )
        if code == protocol.OK:
            return None
        if code in (protocol.NO_CONNECTION, protocol.CONNECTION_LOST):
            self._break(self._lost(None))
            raise Disconnected(self.name, "the SFTP server lost its own connection")
        return Status(code, _printable(text), offset)


def _extensions(fields: Fields) -> dict[bytes, bytes]:
    found = {}
    while fields.more():
        name = fields.string()
        found[name] = fields.string()
    return found


def _printable(text: bytes) -> str:
    """A stranger's words, on one line and not too many."""
    return "".join(char if char.isprintable() else "?" for char in text[:200].decode("utf-8", "replace"))


def _cut(length: int, largest: int) -> Iterator[tuple[int, int]]:
    """`length` bytes in requests of about one size, none larger than `largest`."""
    if not length:
        return
    count = -(-length // largest)
    # Whole pages, where the last request does not become too large by it.
    step = min(-(-length // count // 4096) * 4096, largest)
    for start in range(0, length, step):
        yield start, min(start + step, length)


def _cost(request: Request) -> int:
    payload = request.data if request.data is not None else request.room
    return 0 if payload is None else max(len(payload), _SMALLEST)


def _volleys(requests: list[Request]) -> Iterator[list[Request]]:
    volley: list[Request] = []
    cost = 0
    for request in requests:
        volley.append(request)
        cost += _cost(request)
        if cost >= _VOLLEY:
            yield volley
            volley, cost = [], 0
    if volley:
        yield volley
