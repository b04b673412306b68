# SPDX-License-Identifier: Apache-2.0
"""The far side of the SSH cases: an sshd on this machine, an agent that has its key, a long thin way."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from sshd import Sshd
from wan_proxy import WanProxy

# A round trip of 20 ms at 1 Gbit/s.
RTT, RATE = 0.020, 1e9


class FarHost:
    """From `with` to its end; `words` are what commands name of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = ExitStack()
        self.words: dict[str, str] = {}

    def __enter__(self) -> FarHost:
        self._folder.mkdir(parents=True)
        sshd = self._ends.enter_context(Sshd(self._folder))
        self.wan = self._ends.enter_context(WanProxy(sshd.port, rtt=RTT, rate=RATE))
        distant = sshd.configure(f"Port {self.wan.port}", f"HostKeyAlias {sshd.host}", name="distant")
        # qemu's driver takes keys from an agent.
        agent = self._folder / "agent"
        self._ends.callback(self._start_agent(agent).terminate)
        os.environ["SSH_AUTH_SOCK"] = str(agent)
        subprocess.run(["ssh-add", "-q", str(sshd.key)], check=True)
        self.words = {
            "config": str(sshd.config),
            "distant": str(distant),
            "qemu_ssh": f"driver=raw,file.driver=ssh,file.server.host=127.0.0.1,file.server.port={sshd.port},"
            f"file.user={sshd.user},file.host-key-check.mode=none,file.path=",
            "nbdkit_ssh": f"nbdkit --exit-with-parent ssh host=127.0.0.1 port={sshd.port} user={sshd.user} "
            f"identity={sshd.key} known-hosts={sshd.known_hosts} path=",
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _start_agent(self, socket: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        while not socket.exists():
            assert process.poll() is None
        return process
