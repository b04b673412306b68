# SPDX-License-Identifier: Apache-2.0
"""The near half of the agent: starts `program.py` on the far side and has many requests on their way.

One thread receives. It takes all that has arrived at once, since a channel shifts what it
keeps for every small piece it hands out, and puts the bytes where their request wants them.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import zlib
from array import array
from functools import cache
from importlib import resources
from typing import Any

from diskcopy.errors import Disconnected, Error, FdFailure, Refused, system_failure
from diskcopy.storage.ssh.agent import program
from diskcopy.storage.ssh.agent.program import ANSWER, REQUEST
from diskcopy.storage.ssh.far import About, Begun, Channel, Far

# More than what is ever in a channel's window: take everything.
_ALL = 64 << 20
# An answer that is not data is no larger than this: the ranges of one EXTENTS.
_LARGEST_ANSWER = 16 * program.MOST_RANGES + (1 << 16)
# What a login may print before the program says hello.
_MOST_NOISE = 64 << 10


class NoPython(Exception):
    """There is no Python on the far side that could run the agent."""


def command() -> str:
    """What starts the agent, in words that every login shell takes alike."""
    size = len(source())
    take = f"while len(diskcopy)<{size}: diskcopy+=os.read(0,{size}-len(diskcopy))"
    run = program.MARK.decode()
    return f"exec python3 -I -S -c \"import os,zlib;diskcopy=b'';exec('{take}');{run}\""


@cache
def source() -> bytes:
    """The program, as it is sent: compressed."""
    return zlib.compress(resources.files(__package__).joinpath("program.py").read_bytes(), 9)


class _Waiting:
    """A request on its way: where its data go, and how it ended."""

    def __init__(self, sink: memoryview) -> None:
        self.sink = sink
        self.runs: array[int] = array("q")
        self.number = 0
        self.payload = b""
        self.failure: Exception | None = None
        self.done = threading.Event()

    def expect(self, at: int, length: int) -> memoryview:
        """Where the next `length` bytes of data go."""
        if at + length > self.sink.nbytes or (self.runs and at < self.runs[-1]):
            raise ValueError("the far side sent what was not asked for")
        if self.runs and self.runs[-1] == at:
            self.runs[-1] = at + length
        else:
            self.runs.extend((at, at + length))
        return self.sink[at : at + length]


class AgentFar(Far):
    """See `Far`."""

    can = frozenset({"extents", "digest"})
    parallel = 16

    def __init__(self, channel: Channel, name: str) -> None:
        """
        channel: `command()` runs at its other end
        name: the file's location, for messages

        Raises NoPython, or Disconnected.
        """
        self._channel = channel
        self._name = name
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._next = 0
        self._lost: Exception | None = None
        self.boot: str | None = None
        try:
            # Where there is no Python the command has ended; what comes instead of a greeting tells.
            with contextlib.suppress(OSError):
                channel.sendall(source())
            early = self._await_hello()
        except BaseException:
            channel.close()
            raise
        self._receiver = threading.Thread(
            target=self._receive, args=(early,), name="diskcopy-ssh", daemon=True
        )
        self._receiver.start()

    # --- what a far side does ----------------------------------------------------------

    def open(self, path: str, *, locking: bool) -> About:
        return self._about(self._ask(program.OPEN, int(locking), payload=os.fsencode(path)).payload)

    def create(self, path: str, temporary: str | None) -> Begun:
        paths = os.fsencode(path) + b"\0" + os.fsencode(temporary or "")
        answer = self._ask(program.CREATE, payload=paths)
        # An inode is never 0.
        device, inode = program.INODE.unpack_from(answer.payload)
        begun = os.fsdecode(answer.payload[program.INODE.size :])
        return Begun(begun, (device, inode) if inode else None)

    def about(self) -> About:
        return self._about(self._ask(program.ABOUT).payload)

    def read(self, offset: int, buffer: memoryview, unit: int) -> array[int]:
        answer = self._ask(
            program.READ, offset, buffer.nbytes, struct.pack(">I", unit), sink=buffer, offset=offset
        )
        position = 0
        bounds = iter(answer.runs)
        for start, end in zip(bounds, bounds, strict=True):
            _clear(buffer[position:start])
            position = end
        _clear(buffer[position:])
        return answer.runs

    def extents(self, offset: int, end: int) -> tuple[array[int], int]:
        answer = self._ask(program.EXTENTS, offset, end)
        unpacker = zlib.decompressobj()
        packed = unpacker.decompress(answer.payload, 16 * program.MOST_RANGES)
        return array("q", struct.unpack(f">{len(packed) // 8}q", packed)), answer.number

    def write(self, offset: int, buffer: memoryview) -> None:
        self._ask(program.WRITE, offset, payload=buffer, offset=offset)

    def zero(self, offset: int, length: int, punch: bool) -> bool:
        payload = b"\1" if punch else b"\0"
        return bool(self._ask(program.ZERO, offset, length, payload, offset=offset).number)

    def resize(self, size: int) -> None:
        self._ask(program.RESIZE, size)

    def flush(self, *, durable: bool) -> None:
        self._ask(program.FLUSH, int(durable))

    def forget(self) -> None:
        self._ask(program.FORGET)

    def commit(self, *, durable: bool) -> None:
        self._ask(program.COMMIT, int(durable))

    def abort(self) -> None:
        self._ask(program.ABORT)

    def digests(self, offset: int, length: int, leaf: int) -> list[bytes]:
        told = self._ask(program.DIGESTS, offset, length, struct.pack(">I", leaf), offset=offset).payload
        return [told[at : at + 32] for at in range(0, len(told), 32)]

    def close(self) -> None:
        self._channel.close()
        self._receiver.join()

    def _about(self, payload: bytes) -> About:
        told: dict[str, Any] = json.loads(payload)
        self.boot = told["boot"]
        device, inode = told["inode"]
        return About(told["size"], told["mtime_ns"], (device, inode), bool(told["device"]), told["allocated"])

    # --- asking ------------------------------------------------------------------------

    def _ask(
        self,
        operation: int,
        first: int = 0,
        second: int = 0,
        payload: bytes | memoryview = b"",
        *,
        sink: memoryview | None = None,
        offset: int | None = None,
    ) -> _Waiting:
        """Send a request and wait until it is answered."""
        waiting = _Waiting(memoryview(b"") if sink is None else sink)
        with self._lock:
            if self._lost is not None:
                raise self._lost
            number = self._next = (self._next + 1) & 0xFFFFFFFF
            self._waiting[number] = waiting
        self._send(REQUEST.pack(number, operation, first, second, len(payload)), payload)
        waiting.done.wait()
        if waiting.failure is not None:
            raise waiting.failure
        return waiting

    def _send(self, *parts: bytes | memoryview) -> None:
        try:
            with self._sending:
                for part in parts:
                    self._channel.sendall(part)
        except OSError as failure:
            raise self._lose(failure) from None

    def _lose(self, failure: BaseException) -> Exception:
        """Every request fails that is on its way, and every one after it."""
        with self._lock:
            if self._lost is None:
                self._lost = Disconnected(self._name, f"the connection was lost ({failure})")
            lost, waiting = self._lost, list(self._waiting.values())
            self._waiting.clear()
        for request in waiting:
            request.failure = lost
            request.done.set()
        return lost

    # --- receiving ---------------------------------------------------------------------

    def _await_hello(self) -> bytes:
        """What has come after the program's first words."""
        heard = b""
        while True:
            try:
                got = self._channel.recv(_ALL)
            except OSError as failure:
                raise Disconnected(self._name, f"the connection was lost ({failure})") from None
            heard += got
            start = heard.find(program.HELLO)
            if start >= 0:
                return heard[start + len(program.HELLO) :]
            if not got or len(heard) > _MOST_NOISE:
                raise NoPython

    def _receive(self, early: bytes) -> None:
        try:
            self._take_apart(early)
            raise EOFError("the far side ended")
        except (OSError, EOFError, ValueError, KeyError) as failure:
            self._lose(failure)

    def _take_apart(self, early: bytes) -> None:
        """Deliver answers until the channel ends; ValueError or KeyError for what is none."""
        stream = _Arrivals(self._channel, early)
        while True:
            header = stream.take(ANSWER.size)
            if header is None:
                return
            number, kind, first, length = ANSWER.unpack(header)
            waiting = self._waiting[number]
            if kind == program.DATA:
                stream.fill(waiting.expect(first, length))
                continue
            if length > _LARGEST_ANSWER:
                raise ValueError("the far side sent an answer that is too long")
            waiting.number = first
            waiting.payload = stream.take(length) or b""
            if kind == program.FAILED:
                waiting.failure = self._failure(first, json.loads(waiting.payload))
            with self._lock:
                self._waiting.pop(number, None)
            waiting.done.set()

    def _failure(self, at: int, told: dict[str, Any]) -> Error:
        if told.get("early"):
            return Error(self._name, "ends early", offset=at, remedy="somebody cut it short")
        if "refused" in told:
            reason, _, remedy = str(told["refused"]).partition("; ")
            return Refused(self._name, reason, remedy=remedy or None)
        offset = told["offset"]
        failure = OSError(int(told["errno"]), "")
        if offset is not None:
            failure = FdFailure(int(told["errno"]), str(told["action"]), int(offset))
        return system_failure(self._name, str(told["action"]), failure)


class _Arrivals:
    """The bytes of a channel, in any pieces."""

    def __init__(self, channel: Channel, early: bytes) -> None:
        self._channel = channel
        self._piece = memoryview(early)

    def _next_piece(self) -> bool:
        if not self._piece.nbytes:
            self._piece = memoryview(self._channel.recv(_ALL))
        return bool(self._piece.nbytes)

    def fill(self, sink: memoryview) -> None:
        """Fill all of `sink`. Raises EOFError where the channel ends before."""
        at = 0
        while at < sink.nbytes:
            if not self._next_piece():
                raise EOFError("the far side ended")
            part = self._piece[: sink.nbytes - at]
            sink[at : at + part.nbytes] = part
            self._piece = self._piece[part.nbytes :]
            at += part.nbytes

    def take(self, length: int) -> bytes | None:
        """`length` bytes; None where the channel ended in front of them."""
        if length and not self._next_piece():
            return None
        data = bytearray(length)
        self.fill(memoryview(data))
        return bytes(data)


def _clear(view: memoryview) -> None:
    if view.nbytes:
        view[:] = bytes(view.nbytes)
