# SPDX-License-Identifier: Apache-2.0
"""A TCP forwarder on loopback that behaves like a long, thin link, and counts what crosses it.

    wan_proxy.py --to 2222 --rtt 20ms --rate 1000M --drop-after 10000000

It prints the port that it listens on. Every byte is delivered rtt/2 after it came, in each
direction, and each direction of each connection is paced to --rate bits per second. A connection
is reset as soon as --drop-after bytes have crossed it, both directions together. A line "count"
on its stdin prints how many bytes were delivered to the server and to the client so far, "drop"
resets all connections; it ends with its stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import struct
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


def parse_rate(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)([KMG]?)", text)
    if found is None:
        raise ValueError(text)
    return float(found[1]) * UNITS[found[2]]


def parse_time(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(ms|s)?", text)
    if found is None:
        raise ValueError(text)
    return float(found[1]) * (1e-3 if found[2] == "ms" else 1)


class Counted(NamedTuple):
    """Bytes that were delivered."""

    to_server: int
    to_client: int


class Link:
    """What all connections share."""

    def __init__(self, to: int, delay: float, rate: float, drop_after: int) -> None:
        self.to = to
        self.delay = delay
        self.rate = rate
        self.drop_after = drop_after
        # What is on the way in one direction, and what the ends' buffers may hold on top.
        self.room = int((rate or 10e9) / 8 * max(delay, 0.01)) + (4 << 20)
        self.delivered = [0, 0]
        self.ends: set[End] = set()

    def drop(self) -> None:
        for end in list(self.ends):
            end.reset()


class End(asyncio.Protocol):
    """One end of a connection: what comes in here goes out at its peer, later.

    direction: where what comes in goes to, 0 the server, 1 the client
    """

    def __init__(self, link: Link, direction: int) -> None:
        self.link = link
        self.direction = direction
        self.loop = asyncio.get_running_loop()
        self.peer: End | None = None
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.queued = 0
        self.free_at = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.blocked = False
        self.paused = False
        self.crossed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.link.ends.add(self)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(1 << 20)
        if self.peer is None:
            transport.pause_reading()
            self.paused = True
            self.loop.create_task(self._meet_server())

    async def _meet_server(self) -> None:
        server = End(self.link, 1)
        server.peer = self
        try:
            await self.loop.create_connection(lambda: server, "127.0.0.1", self.link.to)
        except OSError:
            self.reset()
            return
        self.peer = server
        self._read_on()

    def data_received(self, data: bytes) -> None:
        now = self.loop.time()
        self.free_at = max(self.free_at, now)
        if self.link.rate:
            self.free_at += len(data) * 8 / self.link.rate
        self.queued += len(data)
        self._later(self.free_at + self.link.delay, data)
        if self.queued > self.link.room and self.transport and not self.paused:
            self.transport.pause_reading()
            self.paused = True

    def eof_received(self) -> bool:
        self._later(max(self.free_at, self.loop.time()) + self.link.delay, b"")
        return True  # the other direction goes on

    def _later(self, due: float, data: bytes) -> None:
        self.waiting.append((due, data))
        if self.timer is None and not self.blocked:
            self._deliver()

    def _deliver(self) -> None:
        self.timer = None
        while self.waiting and not self.blocked:
            due, data = self.waiting[0]
            if due > self.loop.time():
                self.timer = self.loop.call_at(due, self._deliver)
                return
            self.waiting.popleft()
            peer = self.peer
            if peer is None or peer.transport is None or peer.transport.is_closing():
                return
            if not data:
                with suppress(OSError):  # reset meanwhile, and soon told so
                    peer.transport.write_eof()
                return
            self.queued -= len(data)
            self._account(peer, data)
        self._read_on()

    def _account(self, peer: End, data: bytes) -> None:
        assert peer.transport
        self.crossed += len(data)
        self.link.delivered[self.direction] += len(data)
        peer.transport.write(data)
        if 0 < self.link.drop_after <= self.crossed + peer.crossed:
            self.reset()

    def _read_on(self) -> None:
        if self.paused and self.queued <= self.link.room // 2 and self.transport:
            if not self.transport.is_closing():
                self.transport.resume_reading()
            self.paused = False

    def pause_writing(self) -> None:
        """The buffer of this end is full: its peer waits."""
        if self.peer:
            self.peer.blocked = True

    def resume_writing(self) -> None:
        if self.peer:
            self.peer.blocked = False
            if self.peer.timer is None:
                self.peer._deliver()

    def reset(self) -> None:
        """Both ends see a connection reset by its peer."""
        for end in (self, self.peer):
            if end and end.transport and not end.transport.is_closing():
                linger = struct.pack("ii", 1, 0)
                end.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                end.transport.abort()

    def connection_lost(self, problem: Exception | None) -> None:
        self.link.ends.discard(self)
        if self.timer:
            self.timer.cancel()
        self.reset()


async def serve(link: Link, listen: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: End(link, 0), "127.0.0.1", listen, backlog=100)
    print(server.sockets[0].getsockname()[1], flush=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while word := (await commands.readline()).strip():
        if word == b"drop":
            link.drop()
        print(*link.delivered, flush=True)


class WanProxy:
    """The proxy as a process of its own, from `with` to its end.

    to, port: where it forwards to and where it listens on, ports of loopback
    rtt: seconds; rate: bits per second each way, 0 without bounds; drop_after: bytes
    config: an ssh_config that leads through it, where a fixture made one
    """

    def __init__(self, to: int, *, rtt: float = 0, rate: float = 0, drop_after: float = 0) -> None:
        self.to = to
        self.config: Path | None = None
        words = ["--to", to, "--rtt", f"{rtt:f}s", "--rate", f"{rate:f}", "--drop-after", int(drop_after)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid
        self.port = int(self._answer())

    def __enter__(self) -> WanProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def _ask(self, word: str) -> Counted:
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        return Counted(*map(int, self._answer().split()))

    def count(self) -> Counted:
        """The bytes delivered so far, of all connections."""
        return self._ask("count")

    def drop(self) -> None:
        """Reset all connections."""
        self._ask("drop")

    def stop(self) -> None:
        # It may have been stopped by a signal, to be a host that does not answer.
        self._process.kill()
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=int, required=True, help="port of loopback to forward to")
    parser.add_argument("--listen", type=int, default=0, help="port of loopback to listen on; 0: a free one")
    parser.add_argument("--rtt", type=parse_time, default=0.0, help="round-trip time, as 20ms")
    parser.add_argument(
        "--rate", type=parse_rate, default=0.0, help="bits per second each way, as 1000M; 0: no bounds"
    )
    parser.add_argument(
        "--drop-after", type=int, default=0, help="reset each connection after that many bytes"
    )
    words = parser.parse_args()
    asyncio.run(serve(Link(words.to, words.rtt / 2, words.rate, words.drop_after), words.listen))


if __name__ == "__main__":
    main()
