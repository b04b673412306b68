# SPDX-License-Identifier: Apache-2.0
"""What the user's ssh_config says about a host, as ssh reads it."""

from __future__ import annotations

import getpass
import glob
import io
import os
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from diskcopy.errors import UsageError
from diskcopy.storage.ssh import library
from diskcopy.storage.ssh.library import paramiko

USER_CONFIG = "~/.ssh/config"
_SYSTEM_CONFIG = "/etc/ssh/ssh_config"
# As in OpenSSH (readconf.c).
_DEEPEST_INCLUDE = 16
_DEFAULT_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa")
_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
_GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
#: where the configuration says nothing: a host that does not answer must not hold a copy for ever
_TIMEOUT = 30.0
_ALIVE_INTERVAL = 15.0
_ALIVE_COUNT = 3


class Settings(NamedTuple):
    """All that is needed to reach a host and be let in.

    alias:    the host as typed; host, port, user: what it stands for
    jump:     the hosts to go through, the nearest first; proxy_command: or a command that gets there
    identities: key files, `explicit` where the configuration names them
    agent:    the socket of the agent, None for none
    strict:   whether unknown keys are refused; remember: or else added to the first of `user_known`
    known_as: the host's name in known_hosts, where that is another than host and port
    timeout:  seconds to connect; alive: seconds without any answer until a connection is given up,
              asked for every `alive_interval`, 0 for never
    ask:      whether a person may be asked
    config:   the words for ssh to read the same configuration
    """

    alias: str
    host: str
    port: int
    user: str
    jump: tuple[str, ...]
    proxy_command: str | None
    identities: tuple[str, ...]
    explicit: bool
    identities_only: bool
    agent: str | None
    strict: bool
    remember: bool
    hashed: bool
    user_known: tuple[str, ...]
    global_known: tuple[str, ...]
    known_as: str | None
    timeout: float
    alive_interval: float
    alive: float
    compression: bool
    ask: bool
    family: str
    config: tuple[str, ...]

    @property
    def account(self) -> str:
        """user@host:port, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{self.port}"

    def ssh(self, *options: str) -> str:
        """The command with which a person gets to this host as we do."""
        words = ["ssh", *options, *self.config, "-p", str(self.port), "-l", self.user, self.alias]
        return shlex.join(words)


def _read(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError as failure:
        reason = f"cannot read this ssh configuration: {os.strerror(failure.errno or 0).lower()}"
        raise UsageError(path, reason) from None


def _criteria(keyword: str, value: str) -> str:
    """The condition of a Host or Match line, in words of Match."""
    if keyword == "match":
        return "" if value.lower() == "all" else value
    return f"originalhost {shlex.quote(','.join(shlex.split(value)))}"


def _expanded(path: str, within: str, depth: int) -> Iterator[str]:
    """The lines of a file, with those of files it includes in their place; paramiko reads no Include.

    within: the condition under which this file is read, in words of Match; its own conditions hold
    on top of that one.
    """
    if depth > _DEEPEST_INCLUDE:
        raise UsageError(path, "includes too deep", remedy="look for a file that includes itself")
    block = f"Match {within}" if within else "Host *"
    for line in _read(path):
        found = re.match(r"\s*(\w+)(?:\s*=\s*|\s+)(.+?)\s*$", line)
        keyword, value = (found[1].lower(), found[2]) if found else ("", "")
        if keyword in ("host", "match"):
            if within:
                line = f"Match {within} {_criteria(keyword, value)}"
            block = line
            yield line
        elif keyword == "include":
            start = re.match(r"\s*(\w+)\s+(.+?)\s*$", block)
            outer = _criteria(start[1].lower(), start[2]) if start else ""
            for included in _included(path, value):
                yield from _expanded(included, "" if outer == "originalhost '*'" else outer, depth + 1)
                yield block
        else:
            yield line


def _included(path: str, value: str) -> Iterator[str]:
    # Relative to ~/.ssh in a user's file, to /etc/ssh in the system's (ssh_config(5)).
    base = os.path.dirname(
        _SYSTEM_CONFIG if path.startswith("/etc/ssh/") else os.path.expanduser(USER_CONFIG)
    )
    for pattern in shlex.split(value):
        yield from sorted(glob.glob(os.path.join(base, os.path.expanduser(pattern))))


def _files(config: str | None) -> list[str]:
    """As ssh: what -F names is the only file, otherwise the user's comes before the system's."""
    if config is not None:
        return [] if config.lower() == "none" else [config]
    return [path for path in (os.path.expanduser(USER_CONFIG), _SYSTEM_CONFIG) if os.path.exists(path)]


def _look_up(host: str, user: str | None, port: int | None, config: str | None) -> dict[str, str]:
    parser = paramiko.SSHConfig()
    # What the address says comes first, and the first of each counts.
    if user is not None:
        parser.parse(io.StringIO(f"User {user}\n"))
    if port is not None:
        parser.parse(io.StringIO(f"Port {port}\n"))
    for path in _files(config):
        lines = list(_expanded(path, "", 0))
        if any(re.match(r"\s*match\b.*\bexec\b", line, re.I) for line in lines):
            import invoke  # type: ignore[import-untyped,unused-ignore]

            library.paramiko.config.invoke = invoke  # type: ignore[attr-defined]
        try:
            parser.parse(lines)
        except paramiko.ConfigParseError as failure:
            raise UsageError(path, f"is no ssh configuration: {str(failure).lower()}") from None
    try:
        return parser.lookup(host)
    except (ValueError, KeyError, paramiko.CouldNotCanonicalize) as failure:
        raise UsageError(host, f"its ssh configuration makes no sense: {failure}") from None


def _seconds(found: dict[str, str], keyword: str, default: float) -> float:
    """A time as ssh writes it: 90, 90s, 1m30s."""
    text = found.get(keyword, "").lower()
    if text in ("", "none"):
        return default
    if not re.fullmatch(r"(\d+[smhdw]?)+", text):
        raise UsageError(text, f"is no time for {keyword} of ssh_config")
    return float(sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)([smhdw]?)", text)))


def _number(found: dict[str, str], keyword: str, default: int) -> int:
    text = found.get(keyword, str(default))
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(text, f"is no number for {keyword} of ssh_config")
    return int(text)


def _paths(text: str) -> tuple[str, ...]:
    # paramiko has taken off quotes around the whole; those around one of several are left.
    words = shlex.split(text) if '"' in text else text.split()
    home = os.path.expanduser("~")
    return tuple(os.path.expanduser(word.replace("%d", home)) for word in words if word.lower() != "none")


def _yes(found: dict[str, str], keyword: str) -> bool:
    return found.get(keyword, "no").lower() in ("yes", "true")


def _agent(found: dict[str, str]) -> str | None:
    named = found.get("identityagent", "SSH_AUTH_SOCK")
    if named.lower() == "none":
        return None
    if named.startswith("$"):
        named = os.environ.get(named[1:].strip("{}"), "")
    elif named == "SSH_AUTH_SOCK":
        named = os.environ.get(named, "")
    return os.path.expanduser(named) or None


def read(host: str, user: str | None, port: int | None, config: str | None) -> Settings:
    """The settings for `host`; `user` and `port` of an address win over those of the configuration.

    config: an ssh_config file, or None for those that ssh reads. Raises UsageError.
    """
    found = _look_up(host, user, port, config)
    identities: tuple[str, ...] = tuple(os.path.expanduser(path) for path in found.get("identityfile", ()))
    named = tuple(path for path in identities if path.lower() != "none")
    strict = found.get("stricthostkeychecking", "ask").lower()
    interval = _seconds(found, "serveraliveinterval", _ALIVE_INTERVAL)
    jump = found.get("proxyjump", "none")
    alias = found.get("hostkeyalias")
    return Settings(
        alias=host,
        host=found["hostname"],
        port=_number(found, "port", 22),
        user=found.get("user") or getpass.getuser(),
        jump=() if jump.lower() == "none" else tuple(jump.split(",")),
        # ssh: whichever stands first wins; both at once are a mistake that it does not report.
        proxy_command=found.get("proxycommand") if jump.lower() == "none" else None,
        identities=named
        if identities
        else tuple(os.path.expanduser(f"~/.ssh/{name}") for name in _DEFAULT_IDENTITIES),
        explicit=bool(identities),
        identities_only=_yes(found, "identitiesonly"),
        agent=_agent(found),
        strict=strict not in ("no", "off", "accept-new"),
        remember=strict == "accept-new",
        hashed=_yes(found, "hashknownhosts"),
        user_known=_paths(found.get("userknownhostsfile", _KNOWN_HOSTS)),
        global_known=_paths(found.get("globalknownhostsfile", _GLOBAL_KNOWN_HOSTS)),
        known_as=alias,
        timeout=_seconds(found, "connecttimeout", _TIMEOUT) or _TIMEOUT,
        alive_interval=interval,
        alive=interval * max(1, _number(found, "serveralivecountmax", _ALIVE_COUNT)),
        compression=_yes(found, "compression"),
        ask=not _yes(found, "batchmode"),
        family=found.get("addressfamily", "any").lower(),
        config=() if config is None else ("-F", config),
    )


def hops(settings: Settings) -> tuple[str, str | None, int | None, tuple[str, ...]]:
    """The last host of a ProxyJump, and those that lead to it: host, user, port, the others."""
    *others, last = settings.jump
    text = last.strip().removeprefix("ssh://").rstrip("/")
    found = re.fullmatch(r"(?:(.+)@)?(\[[^]]+\]|[^:\[\]@]+)(?::(\d+))?", text)
    if found is None or (found[3] and not 0 < int(found[3]) < 65536):
        raise UsageError(settings.alias, f"{last} is no host for ProxyJump of ssh_config")
    return found[2].strip("[]"), found[1], int(found[3]) if found[3] else None, tuple(others)
