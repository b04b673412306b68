# SPDX-License-Identifier: Apache-2.0
"""Nothing rests on OpenSSH's ways: paramiko's server, with few extensions, serves as well."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import paramiko
import pytest
from sftp_servers import pattern

from diskcopy.errors import Error, NotFound, Refused
from diskcopy.storage.ssh.channel import SshChannel
from diskcopy.storage.ssh.sftp.far import SftpFar

CONTENT = pattern(3_000_000, 1)


class Door(paramiko.ServerInterface):
    def check_auth_none(self, username: str) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED


class Handle(paramiko.SFTPHandle):
    """Reads and writes by paramiko's own code, which keeps a position."""

    def stat(self) -> paramiko.SFTPAttributes:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))

    def chattr(self, attr: paramiko.SFTPAttributes) -> int:
        paramiko.SFTPServer.set_file_attr(self.filename, attr)
        return paramiko.SFTP_OK


class Files(paramiko.SFTPServerInterface):
    """This machine's files; names are resolved as text, and links are not followed."""

    # It does not close what is open when a session ends.
    opened: list[IO[bytes]] = []

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> object:
        try:
            fd = os.open(path, flags, 0o666)
        except OSError as failure:
            return paramiko.SFTPServer.convert_errno(failure.errno)
        handle = Handle(flags)
        handle.filename = path
        handle.readfile = handle.writefile = os.fdopen(fd, "r+b" if flags & os.O_RDWR else "rb")
        self.opened.append(handle.readfile)
        return handle

    def _attributes(self, call: object, path: str) -> object:
        try:
            return paramiko.SFTPAttributes.from_stat(call(path))  # type: ignore[operator]
        except OSError as failure:
            return paramiko.SFTPServer.convert_errno(failure.errno)

    def stat(self, path: str) -> object:
        return self._attributes(os.stat, path)

    def lstat(self, path: str) -> object:
        return self._attributes(os.lstat, path)

    def rename(self, oldpath: str, newpath: str) -> int:
        if os.path.lexists(newpath):
            return paramiko.SFTP_FAILURE
        os.rename(oldpath, newpath)
        return paramiko.SFTP_OK

    def remove(self, path: str) -> int:
        os.remove(path)
        return paramiko.SFTP_OK


@contextmanager
def far_there() -> Iterator[SftpFar]:
    ends = socket.socketpair()
    server, client = map(paramiko.Transport, ends)
    try:
        server.add_server_key(paramiko.ECDSAKey.generate())
        server.set_subsystem_handler("sftp", paramiko.SFTPServer, sftp_si=Files)
        server.start_server(threading.Event(), Door())  # with an event it does not wait for the client
        client.start_client()
        client.auth_none("somebody")
        channel = client.open_session()
        channel.invoke_subsystem("sftp")
        far = SftpFar(SshChannel(channel), "ssh://there/disk")
        try:
            yield far
        finally:
            far.close()
    finally:
        client.close()
        server.close()
        server.join()
        for file in Files.opened:
            file.close()
        Files.opened.clear()


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    with far_there() as far:
        assert far.open(str(path), locking=True).size == len(CONTENT)
        buffer = bytearray(len(CONTENT) - 10)
        far.read(5, memoryview(buffer), 4096)
        assert buffer == CONTENT[5:-5]
        os.truncate(path, 1_000_000)
        with pytest.raises(Error, match="ends early at offset 1000000"):
            far.read(5, memoryview(buffer), 4096)


def test_a_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with far_there() as far:
        assert not far.durable
        far.create(str(path), None)
        far.resize(len(CONTENT) + 4096)
        far.write(0, memoryview(CONTENT))
        assert far.zero(len(CONTENT), 4096, True)
        far.flush(durable=True)
        far.commit(durable=True)
    assert path.read_bytes() == CONTENT + bytes(4096)
    assert os.listdir(tmp_path) == ["disk"]


def test_what_it_cannot_do_is_refused_first(tmp_path: Path) -> None:
    old, link = tmp_path / "old", tmp_path / "link"
    old.write_bytes(b"old")
    link.symlink_to("old")
    for path, kind, text in (
        (old, Refused, "cannot replace a file by another at once"),
        (link, Refused, "is a link, and the SFTP server does not follow it; name the file that it points to"),
        (tmp_path, Refused, "is a directory"),
        (tmp_path / "nowhere" / "disk", NotFound, "cannot create"),
    ):
        with far_there() as far:
            with pytest.raises(kind, match=text):
                far.create(str(path), None)
    assert old.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["link", "old"]


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    with far_there() as far:
        far.create(str(tmp_path / "disk"), None)
        far.write(0, memoryview(CONTENT))
        far.abort()
    assert os.listdir(tmp_path) == []
