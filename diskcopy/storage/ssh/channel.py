# SPDX-License-Identifier: Apache-2.0
"""paramiko's channels, as far sides want them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from diskcopy.storage.ssh.library import paramiko

if TYPE_CHECKING:
    from typing_extensions import Buffer

# What paramiko raises beside OSError; the last where new keys are not agreed on within 30 s.
_LOST = (EOFError, paramiko.SSHException)
# What goes out at a time: a packet of OpenSSH's, of which paramiko leaves 64 bytes unused. One
# byte more makes a second packet each time: 71 MiB/s instead of 161.
_PACKET = (32 << 10) - 64


class SshChannel:
    """A `Channel` over one of paramiko's."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def recv(self, length: int) -> bytes:
        try:
            return self._channel.recv(length)
        except _LOST:
            raise ConnectionResetError("the connection was lost") from None

    def sendall(self, data: Buffer) -> None:
        view = memoryview(data)
        try:
            # For every packet that it makes, paramiko copies all that is left.
            for at in range(0, view.nbytes, _PACKET):
                self._channel.sendall(bytes(view[at : at + _PACKET]))
        except _LOST:
            raise ConnectionResetError("the connection was lost") from None

    def close(self) -> None:
        # It says goodbye to the far side, which may not be there any more.
        with contextlib.suppress(*_LOST, OSError):
            self._channel.close()
