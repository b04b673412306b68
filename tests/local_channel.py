# SPDX-License-Identifier: Apache-2.0
"""A channel whose far side is a process of this machine: what sshd would run, without sshd."""

from __future__ import annotations

import contextlib
import socket
import subprocess


class LocalChannel:
    """What the far sides use of a paramiko.Channel, at the standard input and output of a command."""

    def __init__(self, *command: str, cwd: str | None = None) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, cwd=cwd
            )

    def recv(self, length: int) -> bytes:
        # As in SSH, where the command has ended the channel ends, whatever it left unread.
        with contextlib.suppress(ConnectionResetError):
            return self._socket.recv(min(length, 1 << 20))
        return b""

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the other end may have gone
            self._socket.shutdown(socket.SHUT_RDWR)
        self.process.wait()
        self._socket.close()
