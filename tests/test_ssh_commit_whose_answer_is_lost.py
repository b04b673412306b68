# SPDX-License-Identifier: Apache-2.0
"""A file that got its name over a connection that was lost with the answer is finished, not gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sshd import Sshd

from diskcopy.errors import Changed, Disconnected
from diskcopy.storage.ssh.file import NewRemoteFile
from diskcopy.storage.ssh.location import Location
from diskcopy.storage.ssh.options import SshOptions

CONTENT = b"new " * 10_000


def lose_the_answer(file: NewRemoteFile, *, done: bool) -> None:
    """The next commit is done there, or not, and then the connection is lost."""
    far = file.link.far
    commit = far.commit

    def commit_and_lose(*, durable: bool) -> None:
        if done:
            commit(durable=durable)
        far.close()
        raise Disconnected(file.name, "the connection was lost")

    far.commit = commit_and_lose  # type: ignore[method-assign]


def begin(sshd: Sshd, path: Path, backend: str) -> NewRemoteFile:
    options = SshOptions(config=str(sshd.config), backend=backend)
    file = NewRemoteFile(Location("kool", str(path)), options, size=len(CONTENT))
    file.write(0, CONTENT)
    file.flush()
    return file


@pytest.mark.parametrize("backend", ["agent", "sftp"])
@pytest.mark.parametrize("old", [None, b"old", b"x" * len(CONTENT)])
@pytest.mark.parametrize("done", [True, False])
def test_commit_is_done_once(sshd: Sshd, tmp_path: Path, backend: str, old: bytes | None, done: bool) -> None:
    path = tmp_path / "disk"
    if old is not None:
        path.write_bytes(old)
        os.utime(path, (1, 1))
    with begin(sshd, path, backend) as file:
        lose_the_answer(file, done=done)
        file.commit()
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["disk"]


@pytest.mark.parametrize("backend", ["agent", "sftp"])
@pytest.mark.parametrize("old", [None, b"x" * len(CONTENT)])
def test_a_file_that_others_removed_is_not_finished(
    sshd: Sshd, tmp_path: Path, backend: str, old: bytes | None
) -> None:
    path = tmp_path / "disk"
    if old is not None:
        path.write_bytes(old)
        os.utime(path, (1, 1))
    file = begin(sshd, path, backend)
    lose_the_answer(file, done=False)
    for name in os.listdir(tmp_path):
        if name.startswith("."):
            os.unlink(tmp_path / name)
    with pytest.raises(Changed, match="the file in the making is gone"):
        file.commit()
    with pytest.raises(Changed, match="the file in the making is gone"):
        file.close()
    assert os.listdir(tmp_path) == (["disk"] if old else [])
