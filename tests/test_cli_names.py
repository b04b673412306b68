# SPDX-License-Identifier: Apache-2.0
"""Whatever a name holds and the locale knows: the copy is made, and no terminal is commanded."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, ENVIRONMENT, diskcopy, fails, names
from qemu_images import run

ASCII = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}

HOSTILE = "disk\x1b[31m\nnew line"


@pytest.mark.parametrize("environment", [ENVIRONMENT, ASCII], ids=["utf8", "ascii"])
@pytest.mark.parametrize("name", ["ü", HOSTILE, os.fsdecode(b"\xff\xfe"), "-x", "ü" * 127])
def test_every_name_can_be_written_and_replaced(
    tmp_path: Path, name: str, environment: dict[str, str]
) -> None:
    (tmp_path / "source").write_bytes(b"x" * 5000)
    words = [*COMMAND, "copy", "--", "source", name]
    for _ in range(2):
        done = subprocess.run(
            list(map(os.fsencode, words)), cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert b"\x1b" not in done.stderr
        assert names(tmp_path) == sorted([name, "source"])
        assert (tmp_path / name).read_bytes() == b"x" * 5000


def test_names_inside_an_image_in_a_locale_without_them(tmp_path: Path) -> None:
    image = str(tmp_path / "a")
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    run("qemu-img", "snapshot", "-c", "früher", image)
    assert "fr\\xfcher" in diskcopy("info", image, env=ASCII).stdout
    assert "früher" in diskcopy("info", image).stdout


def test_log_lines_stay_lines(tmp_path: Path) -> None:
    (tmp_path / HOSTILE).write_bytes(b"x" * 5000)
    done = diskcopy("--log-level", "debug", "copy", HOSTILE, "b", cwd=tmp_path)
    assert done.returncode == 0
    assert "\x1b" not in done.stderr
    lines = done.stderr.splitlines()[:-2]
    assert len(lines) > 2
    assert all(line.startswith("diskcopy: DEBUG: ") for line in lines)


def test_errors_stay_one_line(tmp_path: Path) -> None:
    assert "disk\\x1b[31m\\nnew line: cannot open" in fails(1, "copy", HOSTILE, "b", cwd=tmp_path)


def test_checksum_on_a_terminal(tmp_path: Path) -> None:
    """Into a pipe the name goes as sha256sum would write it."""
    (tmp_path / HOSTILE).write_bytes(b"x" * 5000)
    assert "\x1b" in diskcopy("checksum", HOSTILE, cwd=tmp_path).stdout
    ours, its = pty.openpty()
    try:
        assert diskcopy("checksum", HOSTILE, cwd=tmp_path, stdout=its).returncode == 0
        assert b"\\x1b[31m\\nnew line\r\n" in os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(its)
