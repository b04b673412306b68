# SPDX-License-Identifier: Apache-2.0
"""An image that qemu writes to is not read, and one that we read or write, qemu leaves alone."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diskcopy.errors import Refused, SystemFailure
from diskcopy.storage.block import BlockDevice
from diskcopy.storage.file import File, NewFile

SIZE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """A qcow2 image: qemu shares a raw one that it only reads with writers, unless a guest has it."""
    path = str(tmp_path / "disk")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    os.truncate(path, SIZE)
    return path


@contextmanager
def qemu_has(path: str, *options: str) -> Iterator[None]:
    """qemu has the image open: for writing, unless the options say otherwise."""
    command = ["qemu-io", "-f", "qcow2", *options, path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        try:
            qemu.stdin.write(b"read 0 512\n")
            qemu.stdin.flush()
            line = qemu.stdout.readline()
            assert b"512/512" in line, line
            yield
        finally:
            qemu.stdin.close()
            qemu.stdout.close()


def qemu_may_open(path: str, *options: str) -> bool:
    command = ["qemu-io", "-f", "qcow2", *options, "-c", "read 0 512", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        assert "lock" in done.stderr
    return done.returncode == 0


def test_what_qemu_writes_is_not_opened(disk: str) -> None:
    with qemu_has(disk):
        with pytest.raises(Refused, match=r"open for writing in another process.*--force-share"):
            File(disk)
        with pytest.raises(Refused, match=r"shut the guest down first$"):
            File(disk, writable=True)
        with pytest.raises(Refused, match="open for writing"):
            NewFile(disk, SIZE)
        with File(disk, locking=False) as file:
            assert file.read(0, SIZE)[:4] == b"QFI\xfb"
    with File(disk), File(disk):
        pass


def test_what_qemu_reads_is_read_and_not_written(disk: str) -> None:
    with qemu_has(disk, "-r"):
        with File(disk) as file:
            assert file.read(0, SIZE)[:4] == b"QFI\xfb"
        with pytest.raises(Refused, match="kept for itself"):
            File(disk, writable=True)


def test_what_qemu_reads_without_locks_is_read(disk: str) -> None:
    with qemu_has(disk, "-r", "-U"), File(disk):
        pass


def test_what_another_program_locks_is_not_opened(disk: str) -> None:
    program = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX);"
    program += "print(flush=True); input()"
    command = [sys.executable, "-c", program, disk]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(Refused, match="locked by another program"):
            File(disk)
        other.communicate(b"\n")
    File(disk).close()


def test_what_we_read_qemu_does_not_write(disk: str) -> None:
    with File(disk):
        assert not qemu_may_open(disk)
        assert qemu_may_open(disk, "-r")
    assert qemu_may_open(disk)


def test_what_we_write_qemu_does_not_open(disk: str) -> None:
    with File(disk, writable=True):
        assert not qemu_may_open(disk)
        assert not qemu_may_open(disk, "-r")
        with pytest.raises(Refused):
            File(disk)
        with pytest.raises(Refused):
            File(disk, writable=True)
    assert qemu_may_open(disk)


def test_without_locking_nobody_is_held_up(disk: str) -> None:
    with File(disk, locking=False):
        assert qemu_may_open(disk)


def test_nbd_servers_are_noticed(disk: str, tmp_path: Path) -> None:
    socket, pid = tmp_path / "socket", tmp_path / "pid"
    command = [
        "qemu-nbd",
        "-f",
        "raw",
        "--persistent",
        "--socket",
        str(socket),
        "--fork",
        "--pid-file",
        str(pid),
        disk,
    ]
    subprocess.run(command, check=True)
    try:
        with pytest.raises(Refused):
            File(disk)
    finally:
        subprocess.run(["kill", pid.read_text().strip()], check=True)


@pytest.mark.root
def test_a_guest_on_a_block_device_is_noticed(disk: str, loop_device: Callable[..., str]) -> None:
    device = loop_device(Path(disk))
    with qemu_has(device):
        for writable in (False, True):
            with pytest.raises(Refused):
                BlockDevice(device, writable=writable)
        BlockDevice(device, locking=False).close()
    with BlockDevice(device):
        assert not qemu_may_open(device)
    with BlockDevice(device, writable=True):
        assert not qemu_may_open(device, "-r")


def test_a_filesystem_without_locks_is_used_all_the_same(disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None that can be mounted here is without them, so the call is made to refuse."""

    def refuse(code: int) -> None:
        def call(*_: object) -> None:
            raise OSError(code, "no locks")

        monkeypatch.setattr(fcntl, "fcntl", call)

    for code in (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
        refuse(code)
        File(disk).close()
    refuse(errno.EIO)
    with pytest.raises(SystemFailure, match="cannot lock: input/output error"):
        File(disk)
