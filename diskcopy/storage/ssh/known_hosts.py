# SPDX-License-Identifier: Apache-2.0
"""Whether a host's key is the one that is known: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import shlex
from typing import NamedTuple

from diskcopy.errors import Refused, system_failure
from diskcopy.storage.ssh.library import paramiko
from diskcopy.storage.ssh.settings import Settings

#: the signature algorithms of a kind of key, where they are not named as the key is
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")}
_PORT = 22


class Known(NamedTuple):
    """A line that speaks of the host: of which file, and what it says."""

    file: str
    line: int
    revoked: bool
    kind: str
    blob: bytes


def fingerprint(blob: bytes) -> str:
    """As ssh prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _words(kind: str) -> str:
    """ED25519 for ssh-ed25519, as ssh prints it."""
    return "ECDSA" if kind.startswith("ecdsa-") else kind.removeprefix("ssh-").upper()


def _hash(name: str, salt: bytes) -> bytes:
    return hmac.new(salt, name.encode(), hashlib.sha1).digest()


def _speaks_of(names: str, host: str) -> bool:
    if names.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in names[3:].split("|"))
        except (ValueError, binascii.Error):
            return False
        return hmac.compare_digest(_hash(host, salt), digest)
    patterns = names.lower().split(",")
    # Square brackets stand for themselves here, and mean a choice to fnmatch.
    matches = {
        pattern: fnmatch.fnmatchcase(host, pattern.removeprefix("!").replace("[", "[[]"))
        for pattern in patterns
    }
    return any(matches.values()) and not any(
        hit for pattern, hit in matches.items() if pattern.startswith("!")
    )


def _lines(file: str, host: str) -> list[Known]:
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as opened:
            lines = opened.read().splitlines()
    except OSError:  # as ssh: what cannot be read knows nothing, and then the host is refused
        return []
    found = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        # Host certificates are not asked for, so their authorities say nothing.
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked"):
            continue
        if not _speaks_of(fields[0], host):
            continue
        try:
            found.append(Known(file, number, bool(marker), fields[1], base64.b64decode(fields[2])))
        except (ValueError, binascii.Error):
            continue
    return found


class KnownHosts:
    """All that the files of `settings` say about its host."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        plain = (settings.known_as or settings.host).lower()
        self.name = plain
        if settings.known_as is None and settings.port != _PORT:
            self.name = f"[{plain}]:{settings.port}"
        self._known = self._all(self.name)
        # As ssh: a key known for the host serves at another port of it where none is known for that.
        self._elsewhere = [] if self._known or self.name == plain else self._all(plain)

    def _all(self, name: str) -> list[Known]:
        files = (*self._settings.user_known, *self._settings.global_known)
        return [known for file in files for known in _lines(file, name)]

    def first(self, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        """The host key algorithms to ask for, those first for which a key is known."""
        kinds = [known.kind for known in self._known or self._elsewhere if not known.revoked]
        wanted = [one for kind in kinds for one in _ALGORITHMS.get(kind, (kind,)) if one in algorithms]
        return tuple(dict.fromkeys([*wanted, *algorithms]))

    def check(self, key: paramiko.PKey) -> None:
        """See that this is the host's key; raises Refused, with the way out."""
        blob, name = key.asbytes(), self._settings.alias
        kind = paramiko.Message(blob).get_text()
        words = f"{_words(kind)} key {fingerprint(blob)}"
        for known in (*self._known, *self._elsewhere):
            if known.revoked and known.blob == blob:
                raise Refused(name, f"its {words} is revoked by line {known.line} of {known.file}")
        known_keys = [known for known in self._known if not known.revoked]
        if any(known.blob == blob for known in (*known_keys, *self._elsewhere)):
            return
        if known_keys:
            # One of the same kind if there is one: that is what changed.
            other = min(known_keys, key=lambda known: known.kind != kind)
            reason = f"has another host key than line {other.line} of {other.file} says: its {words}"
            remove = shlex.join(["ssh-keygen", "-R", self.name, "-f", other.file])
            remedy = f"someone may be in between; if its key was changed, forget the old one: {remove}"
            raise Refused(name, reason, remedy=remedy)
        if self._settings.strict:
            raise Refused(
                name, f"its {words} is not known", remedy=f"if it is the right one, {self._way_in(kind)}"
            )
        if self._settings.remember:
            self._add(kind, blob)

    def _way_in(self, kind: str) -> str:
        settings = self._settings
        if settings.known_as or settings.jump or settings.proxy_command or not settings.user_known:
            return f"connect once with: {settings.ssh('-o', 'StrictHostKeyChecking=ask')}"
        scan = ["ssh-keyscan", "-t", _words(kind).lower(), "-p", str(settings.port), settings.host]
        return f"add it: {shlex.join(scan)} >> {shlex.quote(settings.user_known[0])}"

    def _add(self, kind: str, blob: bytes) -> None:
        """Remember the key in the first file, as accept-new of ssh."""
        if not self._settings.user_known:
            return
        name = self.name
        if self._settings.hashed:
            salt = os.urandom(20)
            name = "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, _hash(name, salt)))
        file = self._settings.user_known[0]
        try:
            os.makedirs(os.path.dirname(file) or ".", mode=0o700, exist_ok=True)
            with open(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as opened:
                end = opened.seek(0, os.SEEK_END)
                opened.seek(max(0, end - 1))
                newline = "" if opened.read(1) in (b"\n", b"") else "\n"
                opened.write(f"{newline}{name} {kind} {base64.b64encode(blob).decode()}\n".encode())
        except OSError as failure:
            raise system_failure(file, "remember a host key", failure) from failure
