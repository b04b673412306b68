# SPDX-License-Identifier: Apache-2.0
"""What an SSH connection runs over: TCP, a ProxyCommand, or a channel of another connection."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress

from diskcopy.errors import Unreachable, UsageError
from diskcopy.storage.ssh.library import paramiko
from diskcopy.storage.ssh.settings import Settings

_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
#: seconds that a ProxyCommand has to end in when its connection does
_PATIENCE = 2.0
#: what comes in fewer bytes than these is no stream, but answers
_SMALL = 32 << 10
#: as much as a Transport reads from TCP at once; several packets
ROOM = 256 << 10


def tcp(settings: Settings) -> socket.socket:
    """A connection to the host; raises Unreachable.

    Send and receive buffers are left to the kernel: one that is set no longer grows with the
    round trip, and ends at net.core.wmem_max (208 KiB here).
    """
    family = _FAMILIES.get(settings.family)
    if family is None:
        raise UsageError(settings.family, "is no AddressFamily of ssh_config")
    try:
        addresses = socket.getaddrinfo(settings.host, settings.port, family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as failure:
        reason = f"no address for {settings.host}: {getattr(failure, 'strerror', failure)}"
        remedy = "check the name, or give it a HostName in ~/.ssh/config"
        raise Unreachable(settings.alias, reason, remedy=remedy) from None
    deadline = time.monotonic() + settings.timeout
    problem = OSError("no address")
    for kind, type_, protocol, _, address in addresses:
        one = socket.socket(kind, type_, protocol)
        try:
            one.settimeout(max(0.1, deadline - time.monotonic()))
            one.connect(address)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return one
        except OSError as failure:
            one.close()
            problem = failure
        except BaseException:
            one.close()
            raise
    raise _unreached(settings, problem)


def _unreached(settings: Settings, problem: OSError) -> Unreachable:
    place = settings.account.partition("@")[2]
    if isinstance(problem, TimeoutError):
        reason = f"{place} does not answer within {settings.timeout:g} s"
        remedy = "see that the host is up and no firewall is in between; ConnectTimeout waits longer"
    elif isinstance(problem, ConnectionRefusedError):
        reason = f"{place} refuses connections"
        remedy = "see that sshd runs there, and listens on that port"
    else:
        reason = f"cannot connect to {place}: {(problem.strerror or str(problem)).lower()}"
        remedy = "see that the host is up and a route leads to it"
    return Unreachable(settings.alias, reason, remedy=remedy)


class Proxy:
    """A ProxyCommand; `socket` is its stdin and stdout, as ssh runs it."""

    def __init__(self, command: str, settings: Settings) -> None:
        self.socket, theirs = socket.socketpair()
        # For the one line that says why it failed.
        self._complaints = os.memfd_create("ssh-proxy-stderr")
        with theirs:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._complaints,
                # Ctrl-C is ours to act on.
                start_new_session=True,
            )

    def complaint(self) -> str:
        """The last line that it wrote to stderr."""
        lines = os.pread(self._complaints, 64 << 10, 0).decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def close(self) -> None:
        if self._complaints < 0:
            return
        self.socket.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._complaints)
        self._complaints = -1


class Drained:
    """A stream from which all that has come is taken at once, and handed on in parts.

    A Transport asks for 16 bytes and then for the rest of a packet: over TCP that is two system
    calls more for each, and over a channel, which moves the rest of its buffer down each time,
    15 MB/s with a large window.
    """

    def __init__(self, stream: socket.socket | paramiko.Channel, room: int) -> None:
        self._stream = stream
        self._buffer = memoryview(bytearray(room))
        self._at = 0
        self._end = 0
        self._tcp = isinstance(stream, socket.socket) and stream.family != socket.AF_UNIX

    def recv(self, length: int) -> bytes:
        if self._at == self._end:
            self._at = self._end = 0
            self._end = self._fill()
        piece = bytes(self._buffer[self._at : min(self._at + length, self._end)])
        self._at += len(piece)
        return piece

    def _fill(self) -> int:
        if not isinstance(self._stream, socket.socket):
            data = self._stream.recv(len(self._buffer))
            self._buffer[: len(data)] = data
            return len(data)
        got = self._stream.recv_into(self._buffer)
        if self._tcp and got < _SMALL:
            # sshd leaves Nagle's algorithm on: its next small answer waits for our acknowledgement
            # of this one, which the kernel holds back for 40 ms unless it is told not to, each time.
            self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return got

    def send(self, data: bytes) -> int:
        return self._stream.send(data)

    def settimeout(self, seconds: float | None) -> None:
        self._stream.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        self._stream.shutdown(how)

    def close(self) -> None:
        self._stream.close()
        self._closed = True

    #: what Transport.stop_thread asks of a socket
    _closed = False
