# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and its like stop a command at once, leave nothing, and end it by the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import COMMAND, ENVIRONMENT, names
from disks import MiB

SIZE = 64 * MiB


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "disk"
    path.write_bytes(os.urandom(SIZE))
    return path


@contextmanager
def command(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*COMMAND, *map(str, words)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        yield process
        process.kill()


def ends_by(process: subprocess.Popen[bytes], number: int, within: float = 10) -> list[str]:
    """Send the signal, see the process end by it, and return the lines that it said after."""
    assert process.stderr is not None
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=60) == -number
    assert time.monotonic() - began < within
    said = process.stderr.read().decode()
    assert "Traceback" not in said
    return said.splitlines()


def wait_until_copying(process: subprocess.Popen[bytes]) -> None:
    """Read the first line of --progress=json."""
    assert process.stderr is not None
    assert b'"phase": "copy"' in process.stderr.readline()


@pytest.mark.parametrize(
    ("number", "there"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGHUP, False), (signal.SIGINT, True)],
)
def test_copy_leaves_nothing(tmp_path: Path, number: int, there: bool) -> None:
    """In the middle, for certain: the source is a pipe of which half has come."""
    target = tmp_path / "target"
    if there:
        target.write_bytes(b"as it was")
    before = names(tmp_path)
    with command("copy", "--progress=json", "-", target) as process:
        wait_until_copying(process)
        assert process.stdin is not None
        process.stdin.write(os.urandom(SIZE))
        process.stdin.flush()
        said = ends_by(process, number)
    assert said[-1] == "diskcopy: interrupted, nothing was written"
    assert names(tmp_path) == before
    assert not there or target.read_bytes() == b"as it was"


def test_a_silent_pipe_is_left_at_once(tmp_path: Path) -> None:
    with command("copy", "--progress=json", "-", tmp_path / "target") as process:
        wait_until_copying(process)
        time.sleep(0.3)  # for its threads to wait for the pipe, to which nobody writes
        said = ends_by(process, signal.SIGTERM, within=0.75)
    assert said[-1] == "diskcopy: interrupted, nothing was written"
    assert names(tmp_path) == []


def test_a_writer_that_is_stuck_is_given_up(tmp_path: Path, source: Path) -> None:
    """Nobody takes what is written to the pipe: the thread that waits there hears no event."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with command("copy", "--progress=json", source, fifo) as process:
            wait_until_copying(process)
            time.sleep(0.3)  # for the pipe to be full
            said = ends_by(process, signal.SIGTERM)
    finally:
        os.close(reader)
    assert said[-1] == f"diskcopy: interrupted; {fifo} is incomplete"


@pytest.mark.parametrize("options", [["-O", "qcow2"], ["-O", "qcow2", "--compress", "zlib"]])
def test_a_qcow2_copy_leaves_nothing(tmp_path: Path, options: list[str]) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"as it was")
    with command("copy", "--progress=json", *options, "-", target) as process:
        wait_until_copying(process)
        assert process.stdin is not None
        process.stdin.write(os.urandom(SIZE))
        process.stdin.flush()
        said = ends_by(process, signal.SIGINT)
    assert said[-1] == "diskcopy: interrupted, nothing was written"
    assert names(tmp_path) == ["target"]
    assert target.read_bytes() == b"as it was"


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
@pytest.mark.parametrize("words", [[], ["--verify"]], ids=["copy", "verify"])
def test_at_any_moment_the_target_is_whole_or_absent(
    tmp_path: Path, source: Path, words: list[str], delay: float
) -> None:
    target = tmp_path / "target"
    with command("copy", *words, source, target) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert "Traceback" not in said
    if target.exists():
        # The signal came too late; a shell's loop ends all the same.
        assert code in (0, -signal.SIGTERM)
        assert "copied 64.0 MiB" in said
        assert target.read_bytes() == source.read_bytes()
        assert names(tmp_path) == ["target"]
    else:
        assert code == -signal.SIGTERM
        assert said in ("", "diskcopy: interrupted, nothing was written\n")
        assert names(tmp_path) == []


@pytest.mark.root
def test_hidden_file_is_removed_where_there_are_no_unnamed_ones(tmp_path: Path, mounted) -> None:
    folder = mounted("exfat", 128 * MiB)
    with command("copy", "--progress=json", "-", folder / "target") as process:
        wait_until_copying(process)
        assert process.stdin is not None
        process.stdin.write(os.urandom(SIZE))
        process.stdin.flush()
        assert len(names(folder)) == 1
        ends_by(process, signal.SIGINT)
    assert names(folder) == []


@pytest.mark.root
def test_device_is_said_to_be_incomplete(tmp_path: Path, loop_device) -> None:
    medium = tmp_path / "medium"
    medium.write_bytes(bytes(SIZE))
    source = tmp_path / "source"
    os.mkfifo(source)
    device = loop_device(medium)
    with command("copy", "--progress=json", source, device) as process:
        with open(source, "wb") as fifo:
            wait_until_copying(process)
            fifo.write(os.urandom(2 * MiB))
            fifo.flush()
            said = ends_by(process, signal.SIGINT)
    assert said[-1] == f"diskcopy: interrupted; {device} is incomplete"


@pytest.mark.parametrize("words", [["checksum"], ["compare"]])
def test_reading_commands_end_by_the_signal(tmp_path: Path, words: list[str]) -> None:
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(20_000 * MiB)
        for number in range(20_000):  # a request for each
            os.pwrite(file.fileno(), b"data", number * MiB)
    others = [disk] if words == ["compare"] else []
    with command(*words, disk, *others) as process:
        time.sleep(0.4)
        ends_by(process, signal.SIGINT)


def test_loop_of_a_shell_ends(tmp_path: Path) -> None:
    """bash goes on with a loop after a command that exits, and stops after one that SIGINT ended."""
    script = f"for n in 1 2 3; do echo $n; {' '.join(COMMAND)} copy --progress=json - {tmp_path}/new; done"
    with subprocess.Popen(
        ["bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as shell:
        assert shell.stderr is not None
        assert shell.stdout is not None
        assert b'"phase": "copy"' in shell.stderr.readline()
        os.killpg(shell.pid, signal.SIGINT)
        assert shell.wait(timeout=60) == -signal.SIGINT
        assert shell.stdout.read() == b"1\n"


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    script = f"trap '' HUP INT; exec {' '.join(COMMAND)} copy --progress=json - {tmp_path}/new"
    with subprocess.Popen(
        ["sh", "-c", script],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        wait_until_copying(process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        process.communicate(b"disk")
        assert process.returncode == 0
    assert (tmp_path / "new").read_bytes() == b"disk"
