# SPDX-License-Identifier: Apache-2.0
"""A real OpenSSH sshd on loopback, with keys and configuration of its own; as root or not."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "/usr/sbin/sshd"


def _run(*command: object) -> None:
    done = subprocess.run(
        [*map(str, command)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key at `path`, and its public half at `path`.pub."""
    for old in (path, path.with_name(f"{path.name}.pub")):
        old.unlink(missing_ok=True)
    _run(
        "ssh-keygen", "-q", "-t", kind, *(["-b", 2048] if kind == "rsa" else []), "-N", passphrase, "-f", path
    )
    return path


def free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    with socket.socket(family) as one:
        one.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _children(pid: int) -> Iterator[int]:
    """The descendants of a process, the deepest first."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _children(int(child))
            yield int(child)


def _command_line(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


class Sshd:
    """One sshd, from `start` (or `with`) to `stop`.

    folder:  holds all that it has; nothing else is written
    alias:   the host's name in `config`
    config:  an ssh_config for `Options(config=...)` and for `ssh -F`, with all of HostName, Port, User,
             IdentityFile and UserKnownHostsFile
    options: further lines of sshd_config
    python, sftp: whether the far side has them
    """

    def __init__(
        self,
        folder: Path,
        *,
        alias: str = "kool",
        address: str = "127.0.0.1",
        options: Iterable[str] = (),
        host_keys: Iterable[str] = ("ed25519",),
        python: bool = True,
        sftp: bool = True,
    ) -> None:
        self.folder = folder
        self.alias = alias
        self.address = address
        self.options = list(options)
        self.port = 0
        self.user = getpass.getuser()
        self.config = folder / "ssh_config"
        self.known_hosts = folder / "known_hosts"
        self.key = make_key(folder / "key")
        self.log = folder / "sshd.log"
        self.host_keys = [make_key(folder / f"host_{kind}", kind) for kind in host_keys]
        (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
        if sftp:
            self.options.append("Subsystem sftp internal-sftp")
        # Marks all that it runs, so that it is found when its connection is gone.
        self._mark = f"STARTED_BY_SSHD={folder}"
        path = "" if python else f" PATH={self._commands_without_python()}"
        # Another HOME, for the user's own .bashrc may take its time and set another PATH.
        self.options.append(f"SetEnv {self._mark} HOME={folder}{path}")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _commands_without_python(self) -> Path:
        commands = self.folder / "commands"
        commands.mkdir()
        for name in ("sh", "cat", "dd", "echo", "env", "false", "sleep", "true"):
            place = shutil.which(name)
            assert place, name
            (commands / name).symlink_to(place)
        return commands

    @property
    def host(self) -> str:
        """What stands in known_hosts."""
        return f"[{self.address}]:{self.port}"

    def start(self) -> None:
        """Start, on the port that it had before if there was one."""
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        deadline = time.monotonic() + 30
        while not self._started():
            assert time.monotonic() < deadline, self.log.read_text()
            # Another program took the port since it was found free.
            self.port = 0
        self.know()
        self.configure()

    def _started(self) -> bool:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self.port = self.port or free_port(family)
        server = self.folder / "sshd_config"
        lines = [
            f"ListenAddress {self.host}",
            *(f"HostKey {key}" for key in self.host_keys),
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "PermitRootLogin yes",
            "MaxStartups 100",
            "MaxSessions 64",
            "UseDNS no",
            "LogLevel VERBOSE",
        ]
        # The first of each counts.
        server.write_text("\n".join([*self.options, *lines, ""]))
        self.log.write_text("")
        self._process = subprocess.Popen(
            [PROGRAM, "-D", "-f", server, "-E", self.log],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while "Server listening on" not in self.log.read_text():
            if self._process.poll() is not None:
                assert "in use" in self.log.read_text(), f"sshd does not start: {self.log.read_text()}"
                self.stop()
                return False
            assert time.monotonic() < deadline, f"sshd does not start: {self.log.read_text()}"
            time.sleep(0.01)
        return True

    def stop(self) -> None:
        if self._process is not None:
            self.kill_connections()
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def know(self, *kinds: str) -> None:
        """Write known_hosts with the keys of these kinds, of all without."""
        lines = [
            f"{self.host} {' '.join(key.with_name(f'{key.name}.pub').read_text().split()[:2])}\n"
            for key in self.host_keys
            if not kinds or key.name.removeprefix("host_") in kinds
        ]
        self.known_hosts.write_text("".join(lines))

    def configure(self, *settings: str, name: str = "ssh_config") -> Path:
        """Write a client's configuration: `settings` come first, and the first of each counts."""
        path = self.folder / name
        lines = [
            f"Host {self.alias}",
            *settings,
            f"HostName {self.address}",
            f"Port {self.port}",
            f"User {self.user}",
            f"IdentityFile {self.key}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.known_hosts}",
            "GlobalKnownHostsFile /dev/null",
        ]
        path.write_text("\n".join([*lines, ""]))
        return path

    def change_host_keys(self) -> None:
        """Be another host from now on, as far as those can tell who knew this one."""
        self.stop()
        known = self.known_hosts.read_text()
        for key in self.host_keys:
            make_key(key, key.name.removeprefix("host_"))
        self.start()
        self.known_hosts.write_text(known)

    def connections(self) -> list[int]:
        """The processes of sshd that serve connections, the deepest first."""
        if self._process is None:
            return []
        return [pid for pid in _children(self._process.pid) if "sshd" in _command_line(pid).partition(" ")[0]]

    def kill_connections(self) -> int:
        """Kill them, as when the far side's host goes down; how many there were."""
        pids = self.connections()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def processes(self) -> list[str]:
        """The command lines of all that this sshd ever started and that runs still."""
        found = []
        for one in Path("/proc").glob("[0-9]*/environ"):
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if self._mark.encode() in one.read_bytes().split(b"\0"):
                    found.append(_command_line(int(one.parent.name)))
        return found
