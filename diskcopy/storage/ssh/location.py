# SPDX-License-Identifier: Apache-2.0
"""ssh://[user@]host[:port]/absolute/path: what a person types, taken apart and put together."""

from __future__ import annotations

import re
from typing import NamedTuple

from diskcopy.errors import UsageError

_SCHEME = "ssh://"
_LONGEST = 32 << 10
_SHAPE = re.compile(r"(?:(?P<user>[^@/]*)@)?(?P<host>\[[^]/]*\]|[^:/]*)(?::(?P<port>[^/]*))?")
#: what the shell of a ProxyCommand would take apart: no host and no user holds it (as in OpenSSH,
#: CVE-2023-51385), for an address may come out of a stranger's image
_UNSAFE_HOST = re.compile(r"^-|[\s\x00-\x1f\x7f'`\"$\\;&<>|(){}@%/?#\[\]\udc80-\udcff]")
_UNSAFE_USER = re.compile(r"^-|[\x00-\x1f\x7f'`\";&<>|(){}\udc80-\udcff]|\s-|\\$|^\s|\s$|^$")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%[\w.-]+)?")
#: what qemu writes after a path to say how it checks the host's key; other queries mean nothing
_QEMU_QUERY = re.compile(r"host_key_check=[^&;]*(?:[&;]host_key_check=[^&;]*)*")
_PORTS = "a port is a number from 1 to 65535, and an IPv6 address stands in brackets"
_NAME = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._")
#: no comma, for qemu's options end at one, and no ~, for it means a home where a path begins so
_PATH = _NAME | frozenset(b"/+=:@")


def _decode(text: str, address: str) -> str:
    """Percent-encoding taken off, once (RFC 3986, 2.1)."""
    head, *parts = text.split("%")
    raw = head.encode("utf-8", "surrogateescape")
    for part in parts:
        if not re.match("[0-9A-Fa-f]{2}", part):
            raise UsageError(address, f"%{part[:2]} is no percent-encoding", remedy="write a % as %25")
        raw += bytes.fromhex(part[:2]) + part[2:].encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "surrogateescape")


def _encode(text: str, plain: frozenset[int]) -> str:
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in raw)


def _port(text: str | None, address: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,5}", text, re.ASCII) or not 0 < int(text) < 65536:
        raise UsageError(address, f"{text} is no port", remedy=_PORTS)
    return int(text)


class Location(NamedTuple):
    """A file on a host.

    host: as typed, which may be an alias of the user's ssh_config; an IPv6 address without brackets
    path: absolute, decoded; bytes that are not UTF-8 as surrogate escapes
    user, port: None where they were not given
    """

    host: str
    path: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Location:
        """Take an address apart; raises UsageError for what is none.

        Only a `?` must be written in another way in a path (%3F): qemu puts options after one.
        Its `host_key_check` is accepted and changes nothing: keys are checked as ssh_config says.
        A `#` is a part of the path, for files have no fragments.
        """
        if not text.startswith(_SCHEME):
            raise UsageError(text, "is no SSH address", remedy="write ssh://[user@]host[:port]/path")
        if len(text) > _LONGEST:
            raise UsageError(text[:60] + "...", "is too long for an SSH address")
        authority, slash, raw_path = text[len(_SCHEME) :].partition("/")
        shape = _SHAPE.fullmatch(authority)
        if shape is None:
            raise UsageError(text, "is no SSH address", remedy="write ssh://[user@]host[:port]/path")
        user, host = shape["user"], shape["host"]
        if user is not None:
            if ":" in user:
                # Not repeated in the message: what is printed ends up in logs.
                name = f"{_SCHEME}{user.partition(':')[0]}@{host}"
                raise UsageError(name, "a password in an address is seen by everyone", remedy="leave it out")
            user = _decode(user, text)
            if _UNSAFE_USER.search(user):
                raise UsageError(text, "is no name of a user")
        if host.startswith("["):
            host = host[1:-1].replace("%25", "%")
            if not _IPV6.fullmatch(host) or ":" not in host:
                raise UsageError(text, f"[{host}] is no IPv6 address")
        elif not host:
            raise UsageError(text, "names no host", remedy="write ssh://[user@]host[:port]/path")
        elif _UNSAFE_HOST.search(host):
            raise UsageError(text, f"{host} is no name of a host")
        port = _port(shape["port"], text)
        raw_path, query, options = raw_path.partition("?")
        if query and not _QEMU_QUERY.fullmatch(options):
            raise UsageError(
                text, "what follows the ? means nothing here", remedy="write a ? of a path as %3F"
            )
        path = _decode(slash + raw_path, text)
        if not path.strip("/"):
            raise UsageError(text, "names no file", remedy="add the absolute path of one")
        if "\0" in path:
            raise UsageError(text, "no path holds a NUL")
        if re.match("~[^/]*/", raw_path):
            remedy = "write the path from / on, and a folder that is named so with %7E"
            raise UsageError(text, "~ is no folder in an SSH address", remedy=remedy)
        return cls(host, path, user, port)

    def __str__(self) -> str:
        user = "" if self.user is None else f"{_encode(self.user, _NAME)}@"
        host = self.host
        if ":" in host:
            host = "[" + host.replace("%", "%25") + "]"
        port = "" if self.port is None else f":{self.port}"
        return f"{_SCHEME}{user}{host}{port}{_encode(self.path, _PATH)}"

    def join(self, reference: str) -> Location:
        """The file that an image here names: beside this one, or from / on the same host."""
        if reference.startswith("/"):
            return self._replace(path=reference)
        return self._replace(path=self.path[: self.path.rindex("/") + 1] + reference)
