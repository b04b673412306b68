# SPDX-License-Identifier: Apache-2.0
"""Through SFTP a new file appears at its name complete and at once, or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from sftp_servers import channel_to, far_on

from diskcopy.errors import Changed, Disconnected, Error, NotFound, NotPermitted, Refused, Unsupported
from diskcopy.storage.ssh.sftp.far import SftpFar

CONTENT = memoryview(b"new " * 1000)
RENAME = (b"posix-rename@openssh.com",)


def make(path: Path | str, *options: str, without: tuple[bytes, ...] = ()) -> None:
    with far_on(*options, without=without) as far:
        far.create(str(path), None)
        far.write(0, CONTENT)
        far.flush(durable=True)
        far.commit(durable=True)


def test_nothing_has_the_name_before_commit(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with far_on() as far:
        hidden = far.create(str(path), None).temporary
        far.write(0, CONTENT)
        assert re.fullmatch(r"\.disk\.[0-9a-f]{8}\.diskcopy", os.path.basename(hidden))
        assert os.listdir(tmp_path) == [os.path.basename(hidden)]
        assert far.durable
        far.flush(durable=True)
        far.commit(durable=True)
        assert os.listdir(tmp_path) == ["disk"]
        far.commit(durable=True)
        far.abort()
    assert path.read_bytes() == CONTENT


def test_a_hidden_file_of_another_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    other = tmp_path / ".disk.00000000.diskcopy"
    other.write_bytes(b"another's")
    with far_on() as far:
        with pytest.raises(Error, match="cannot create: the SFTP server says only 'Failure'"):
            far.create(str(tmp_path / "disk"), None)
        far.abort()
    assert other.read_bytes() == b"another's"


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    with far_on() as far:
        hidden = far.create(str(tmp_path / "disk"), None).temporary
        far.abort()
        assert os.listdir(tmp_path) == []
        far.abort()
    with far_on() as far:
        hidden = far.create(str(tmp_path / "disk"), None).temporary
        os.unlink(hidden)
        far.abort()


def test_what_was_begun_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with far_on() as far:
        hidden = far.create(str(path), None).temporary
        far.write(0, CONTENT)
    assert os.listdir(tmp_path) == [os.path.basename(hidden)]
    with far_on() as far:
        assert far.create(str(path), hidden).temporary == hidden
        assert not far.zero(0, 10, True), "an earlier session wrote there"
        far.write(len(CONTENT), CONTENT)
        far.commit(durable=True)
    assert path.read_bytes() == bytes(CONTENT) * 2
    with far_on() as far:
        with pytest.raises(NotFound, match=r"^ssh://there/disk: its unfinished file '.*diskcopy' is gone$"):
            far.create(str(path), hidden)
    os.symlink(path, hidden)
    with far_on() as far:
        with pytest.raises(Refused, match="was replaced by something else"):
            far.create(str(path), hidden)


def test_what_was_begun_before_an_unknown_start_is_not_gone_on_with(tmp_path: Path) -> None:
    """A host that crashed meanwhile may have lost what was written: then a rest would not make a disk."""
    with far_on() as far:
        hidden = far.create(str(tmp_path / "disk"), None).temporary
        assert far.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with channel_to() as (channel, _):
        send = channel.sendall
        channel.sendall = lambda data: send(bytes(data).replace(b"random/boot_id", b"random/no_file"))
        far = SftpFar(channel, "ssh://there/disk")
        try:
            with pytest.raises(Changed, match="may have been started anew meanwhile"):
                far.create(str(tmp_path / "disk"), hidden)
            assert far.create(str(tmp_path / "disk"), None).temporary != hidden
            assert far.boot is None
        finally:
            far.close()


def test_a_replaced_file_keeps_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"old")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    before = path.stat()
    with far_on() as far:
        hidden = far.create(str(path), None).temporary
        assert os.stat(hidden).st_mode & 0o777 == 0o600, "nobody opens it before it has its mode"
        far.write(0, CONTENT)
        assert path.read_bytes() == b"old"
        far.commit(durable=True)
    after = path.stat()
    assert path.read_bytes() == CONTENT
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_a_new_file_has_the_mode_that_the_server_gives(tmp_path: Path) -> None:
    make(tmp_path / "disk", "-u", "027")
    assert (tmp_path / "disk").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "disk").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("elsewhere/disk")
    make(link)
    assert os.readlink(link) == "elsewhere/disk"
    assert link.read_bytes() == CONTENT
    dangling = tmp_path / "dangling"
    dangling.symlink_to("elsewhere/fresh")
    make(dangling)
    assert (tmp_path / "elsewhere" / "fresh").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "name", ["a b", "'\"", "new\nline", "-rf", "$(touch x)", "käse", "\udcff\udc80", "*", "x" * 255]
)
def test_names_are_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    make(path)
    assert os.listdir(os.fsencode(tmp_path)) == [name.encode("utf-8", "surrogateescape")]
    with far_on() as far:
        assert far.open(str(path), locking=True).size == len(CONTENT)


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refusals: list[tuple[str, type[Error], str]] = [
        (str(tmp_path), Refused, "is a directory"),
        (f"{tmp_path}/disk/", Refused, "is the name of a folder"),
        (f"{tmp_path}/fifo", Refused, "is not a regular file"),
        ("/dev/no-such-device", Refused, "there is no such device"),
        (f"{tmp_path}/nowhere/disk", NotFound, "its folder does not exist"),
        (f"{tmp_path}/nowhere/../disk", NotFound, "its folder does not exist"),
        (f"{tmp_path}/{'x' * 256}", Error, "cannot create: invalid argument"),
    ]
    for path, kind, text in refusals:
        with far_on() as far:
            with pytest.raises(kind, match=f"^ssh://there/disk: .*{re.escape(text)}"):
                far.create(path, None)
    assert os.listdir(tmp_path) == ["fifo"]


@pytest.mark.root
def test_refuses_devices(tmp_path: Path, loop_device: Callable[..., str]) -> None:
    medium = tmp_path / "medium"
    medium.write_bytes(bytes(1 << 20))
    with far_on() as far:
        with pytest.raises(Unsupported, match=r"cannot be written to .*; with python3 on the host"):
            far.create(loop_device(medium), None)


@pytest.mark.root
def test_says_where_it_may_not_write() -> None:
    with tempfile.TemporaryDirectory() as folder:  # nobody does not come as far as tmp_path
        os.chmod(folder, 0o755)
        with far_on(user=65534) as far:
            with pytest.raises(NotPermitted, match=r"^ssh://there/disk: cannot create: permission denied$"):
                far.create(f"{folder}/disk", None)
        assert os.listdir(folder) == []


class TestWithoutPosixRename:
    def test_a_new_name_is_given(self, tmp_path: Path) -> None:
        make(tmp_path / "disk", without=RENAME)
        assert os.listdir(tmp_path) == ["disk"]

    def test_an_old_file_is_not_risked(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        path.write_bytes(b"old")
        with pytest.raises(Refused, match=r"exists, and this SFTP server cannot replace .*; remove it first"):
            make(path, without=RENAME)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["disk"]

    def test_nor_one_that_appears_meanwhile(self, tmp_path: Path) -> None:
        path = tmp_path / "disk"
        with far_on(without=RENAME) as far:
            far.create(str(path), None)
            path.write_bytes(b"another's")
            with pytest.raises(Error, match="give the finished file its name: the SFTP server says only"):
                far.commit(durable=True)
            far.abort()
        assert path.read_bytes() == b"another's"
        assert os.listdir(tmp_path) == ["disk"]


def test_file_and_folder_are_flushed_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with open(tmp_path / "log", "w+") as log:
        with channel_to("-e", "-l", "VERBOSE", log=log.fileno()) as (channel, process):
            far = SftpFar(channel, "ssh://there/disk")
            hidden = far.create(str(folder / "disk"), None).temporary
            far.write(0, CONTENT)
            far.flush(durable=True)
            far.commit(durable=True)
            far.close()
            process.wait()
        lines = (tmp_path / "log").read_text().splitlines()
    done = [line for line in lines if line.startswith(("fsync", "posix-rename"))]
    assert done == [
        f'fsync "{hidden}"',
        f'posix-rename old "{hidden}" new "{folder}/disk"',
        f'fsync "{folder}"',
    ]


def test_says_where_flush_means_nothing(tmp_path: Path) -> None:
    with far_on(without=(b"fsync@openssh.com",)) as far:
        assert not far.durable
        far.create(str(tmp_path / "disk"), None)
        far.write(0, CONTENT)
        far.flush(durable=True)
        far.commit(durable=True)
    assert (tmp_path / "disk").read_bytes() == CONTENT


@pytest.mark.root
def test_folder_that_may_not_be_read_is_written_to() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        os.chmod(folder, 0o300)
        with far_on(user=65534) as far:
            far.create(f"{folder}/disk", None)
            far.write(0, CONTENT)
            far.flush(durable=True)
            far.commit(durable=True)
        assert Path(folder, "disk").read_bytes() == CONTENT


def test_a_read_only_server_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotPermitted, match="cannot create: permission denied"):
        make(tmp_path / "disk", "-R")


def test_a_lost_server_leaves_the_file_to_go_on_with(tmp_path: Path) -> None:
    with channel_to() as (channel, process):
        far = SftpFar(channel, "ssh://there/disk")
        hidden = far.create(str(tmp_path / "disk"), None).temporary
        process.kill()
        process.wait()
        with pytest.raises(Disconnected, match="the connection was lost"):
            far.write(0, CONTENT)
        with pytest.raises(Disconnected):
            far.abort()
        far.close()
    assert os.listdir(tmp_path) == [os.path.basename(hidden)]
