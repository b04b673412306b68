# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, full, or gone never reach a disk, and are never a traceback."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, ENVIRONMENT
from disks import MiB, sparse_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    sparse_file(tmp_path / "disk", 3, 3 * MiB)
    return tmp_path / "disk"


def shell(words: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a line of sh in which $D is the command."""
    script = words.replace("$D", shlex.join(COMMAND))
    return subprocess.run(
        ["sh", "-c", script], capture_output=True, cwd=folder, env=ENVIRONMENT, check=False, timeout=60
    )


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "<&- 2>&-"])
def test_closed_stream_does_not_become_part_of_the_disk(source: Path, closed: str) -> None:
    done = shell(f"$D copy disk - {closed}", source.parent)
    assert done.returncode == 0
    assert done.stdout == source.read_bytes()
    assert shell(f"$D copy disk new {closed} >&-", source.parent).returncode == 0
    assert (source.parent / "new").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("command", ["map disk", "checksum disk", "info --json disk", "copy disk -"])
@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written_is_a_failure(source: Path, command: str, output: str) -> None:
    done = shell(f"$D {command} {output}", source.parent)
    assert done.returncode == 1
    assert done.stderr.startswith(b"diskcopy: standard output: cannot write")
    assert done.stderr.count(b"\n") == 1


def test_closed_input_as_source_is_a_failure(source: Path) -> None:
    done = shell("$D copy - new <&-", source.parent)
    assert done.returncode == 1
    assert b"standard input: cannot read" in done.stderr
    assert not (source.parent / "new").exists()


def test_reader_that_goes_away_fails_the_copy(source: Path) -> None:
    done = shell("{ $D copy disk - ; echo $? >code; } | head -c 1", source.parent)
    assert done.stderr.startswith(b"diskcopy: standard output: cannot write: broken pipe")
    assert (source.parent / "code").read_text() == "1\n"


def test_full_error_stream_does_not_stop_the_copy(source: Path) -> None:
    done = shell("$D copy --progress=json disk new 2>/dev/full", source.parent)
    assert done.returncode == 0
    assert (source.parent / "new").read_bytes() == source.read_bytes()


def test_lost_error_stream_does_not_stop_the_copy(source: Path) -> None:
    shell("{ $D copy -p disk new; echo $? >code; } 2>&1 >/dev/null | true", source.parent)
    assert (source.parent / "code").read_text() == "0\n"
    assert (source.parent / "new").read_bytes() == source.read_bytes()


def test_summary_that_cannot_be_written_is_no_failure(source: Path) -> None:
    assert shell("$D copy disk new 2>/dev/full", source.parent).returncode == 0
    assert (source.parent / "new").read_bytes() == source.read_bytes()


def test_streams_by_other_names(source: Path) -> None:
    """Names of descriptors lead to pipes that have no name to be found by."""
    done = shell("cat disk | $D copy /dev/stdin /dev/stdout | cmp - disk", source.parent)
    assert (done.returncode, done.stdout) == (0, b"")


def test_files_that_say_they_are_empty(source: Path) -> None:
    done = shell("$D copy /proc/cpuinfo new", source.parent)
    assert done.returncode == 1
    assert b"says that it is empty, and is not; send its content through a pipe" in done.stderr
    assert not (source.parent / "new").exists()
    assert shell("cat /proc/cpuinfo | $D copy - new", source.parent).returncode == 0
