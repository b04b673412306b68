# SPDX-License-Identifier: Apache-2.0
"""How SSH is to be used, beyond what the user's own ssh_config says."""

from __future__ import annotations

from typing import NamedTuple


class SshOptions(NamedTuple):
    """
    config: another ssh_config file than the user's own
    backend: "agent" (a program of ours, run by python3 there) or "sftp"; None takes the first
        of them that the host has
    compression: compress what crosses the wire
    rate: bytes a second that may cross it; None for as many as go
    """

    config: str | None = None
    backend: str | None = None
    compression: bool = False
    rate: int | None = None
