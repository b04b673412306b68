# SPDX-License-Identifier: Apache-2.0
"""Real and unreal SFTP servers at the other end of what looks like a paramiko channel."""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from diskcopy.storage.ssh.sftp.far import SftpFar

SERVER = "/usr/lib/openssh/sftp-server"


class SocketChannel:
    """One end of a socket as a channel: what `SftpFar` uses of paramiko's."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.received = self.sent = self.calls = 0

    def recv(self, nbytes: int) -> bytes:
        chunk = self.end.recv(min(nbytes, 1 << 20))
        self.received += len(chunk)
        return chunk

    def sendall(self, data: memoryview) -> None:
        self.calls += 1
        self.sent += len(data)
        self.end.sendall(data)

    def close(self) -> None:
        with suppress(OSError):  # the other end was first
            self.end.shutdown(socket.SHUT_RDWR)


@contextmanager
def channel_to(
    *options: str,
    user: int | None = None,
    without: tuple[bytes, ...] = (),
    delay: float = 0,
    log: int | None = None,
) -> Iterator[tuple[SocketChannel, subprocess.Popen[bytes]]]:
    """A channel to OpenSSH's server, and its process.

    options, user: of the process
    without: extensions that it hides
    delay: seconds that each byte travels
    log: the descriptor that it logs to (with the options -e -l VERBOSE)
    """
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        # As much as a pipe of sshd's, at least.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with ours:
        with theirs:
            process = subprocess.Popen([SERVER, *options], stdin=theirs, stdout=theirs, stderr=log, user=user)
        try:
            channel = Filtered(ours, without) if without else SocketChannel(ours)
            yield Distant(ours, delay) if delay else channel, process
        finally:
            ours.close()
            process.kill()
            process.wait()


@contextmanager
def far_on(*options: str, user: int | None = None, without: tuple[bytes, ...] = ()) -> Iterator[SftpFar]:
    """A far side on OpenSSH's server."""
    with channel_to(*options, user=user, without=without) as (channel, _):
        far = SftpFar(channel, "ssh://there/disk")
        try:
            yield far
        finally:
            far.close()


class Filtered(SocketChannel):
    """The server's VERSION reply loses extensions; all that follows is its own."""

    def __init__(self, end: socket.socket, without: tuple[bytes, ...]) -> None:
        super().__init__(end)
        self._without = without
        self._greeted = False

    def recv(self, nbytes: int) -> bytes:
        if self._greeted:
            return super().recv(nbytes)
        self._greeted = True
        length, kind, version = struct.unpack(">IBI", self.end.recv(9, socket.MSG_WAITALL))
        rest = self.end.recv(length - 5, socket.MSG_WAITALL)
        strings = []
        while rest:
            size = int.from_bytes(rest[:4], "big")
            strings.append(rest[: 4 + size])
            rest = rest[4 + size :]
        assert any(name[4:] in self._without for name in strings[::2])
        kept = b"".join(
            name + value
            for name, value in zip(strings[::2], strings[1::2], strict=True)
            if name[4:] not in self._without
        )
        return struct.pack(">IBI", 5 + len(kept), kind, version) + kept


class Distant(SocketChannel):
    """The same after `delay` seconds each way."""

    def __init__(self, end: socket.socket, delay: float) -> None:
        super().__init__(end)
        self._delay = delay
        self._there = _Pipe(delay, end.sendall)
        self._back = _Pipe(delay, None)
        self._reader = threading.Thread(target=self._read, name="distant reader")
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):
            while chunk := self.end.recv(1 << 20):
                self._back.put(chunk)
        self._back.put(b"")

    def recv(self, nbytes: int) -> bytes:
        return self._back.get()

    def sendall(self, data: memoryview) -> None:
        self.calls += 1
        self._there.put(bytes(data))

    def close(self) -> None:
        super().close()
        self._there.put(b"")


class _Pipe:
    """Gives out what is put in, `delay` seconds later: to `deliver`, in its own thread, or by `get`."""

    def __init__(self, delay: float, deliver: Callable[[bytes], None] | None) -> None:
        self._delay = delay
        self._queue: deque[tuple[float, bytes]] = deque()
        self._put = threading.Semaphore(0)
        self._deliver = deliver
        if deliver is not None:
            threading.Thread(target=self._run, name="distant sender", daemon=True).start()

    def put(self, chunk: bytes) -> None:
        self._queue.append((time.monotonic() + self._delay, chunk))
        self._put.release()

    def get(self) -> bytes:
        self._put.acquire()
        due, chunk = self._queue.popleft()
        time.sleep(max(0.0, due - time.monotonic()))
        parts = [chunk]
        while chunk and self._queue and self._queue[0][0] <= time.monotonic() and self._queue[0][1]:
            self._put.acquire()
            parts.append(self._queue.popleft()[1])
        return b"".join(parts)

    def _run(self) -> None:
        assert self._deliver is not None
        with suppress(OSError):
            while chunk := self.get():
                self._deliver(chunk)


# --- a server that answers what a test wants ------------------------------------------------


VERSION = struct.pack(">IBI", 5, 2, 3)


def reply(kind: int, number: int, body: bytes = b"") -> bytes:
    return struct.pack(">IBI", 5 + len(body), kind, number) + body


def status(number: int, code: int, text: bytes = b"") -> bytes:
    return reply(101, number, struct.pack(">II", code, len(text)) + text + struct.pack(">I", 0))


def data(number: int, content: bytes) -> bytes:
    return reply(103, number, struct.pack(">I", len(content)) + content)


class Scripted:
    """Reads requests, and sends for each whatever `answer(kind, id, rest)` gives; None: hangs up."""

    def __init__(self, answer: Callable[[int, int, bytes], bytes | None]) -> None:
        self._answer = answer
        ours, self._theirs = socket.socketpair()
        self.channel = SocketChannel(ours)
        self._thread = threading.Thread(target=self._run, name="scripted server")
        self._thread.start()

    def _run(self) -> None:
        with self._theirs as end, suppress(OSError):
            while head := end.recv(4, socket.MSG_WAITALL):
                packet = end.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                answer = self._answer(packet[0], int.from_bytes(packet[1:5], "big"), packet[5:])
                if answer is None:
                    return
                end.sendall(answer)

    def close(self) -> None:
        self.channel.close()
        self._thread.join()
        self.channel.end.close()


def pattern(size: int, seed: int) -> bytes:
    """Bytes in which a shifted or a stale piece shows; one in four pages is zero."""
    rng = random.Random(seed)
    return b"".join(
        bytes(4096) if rng.random() < 0.25 else rng.randbytes(4096) for _ in range(-(-size // 4096))
    )[:size]
