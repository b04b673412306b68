# SPDX-License-Identifier: Apache-2.0
"""Progress is a bar on a terminal that fits it and goes away, lines elsewhere, and JSON for programs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from command import COMMAND, ENVIRONMENT, diskcopy
from disks import MiB, sparse_file

from diskcopy.api import Progress
from diskcopy.cli.progress import figures, skipped
from diskcopy.cli.text import amount, duration, printable

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    sparse_file(tmp_path / "disk", 4, 40 * MiB)
    return tmp_path / "disk"


def on_terminal(*words: object, columns: int = 80, feed: list[bytes] | None = None) -> str:
    """What a command writes to a terminal on standard error."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        assert process.stdin is not None
        for piece in feed or []:
            process.stdin.write(piece)
            process.stdin.flush()
        process.stdin.close()
        seen = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            seen += piece
        assert process.wait() == 0
    os.close(ours)
    return seen.decode()


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("word", ["-p", "--progress", "--progress=bar"])
def test_bar_is_drawn_within_the_terminal(source: Path, word: str, columns: int) -> None:
    text = on_terminal("copy", word, "--verify", source, source.with_name("new"), columns=columns)
    drawn = re.split(r"[\r\n]+", ESCAPE.sub("", text.split("copied ")[0]))
    assert any(line.startswith("copy ") and "━" in line for line in drawn)
    assert any(line.startswith("verify ") for line in drawn)
    assert any("skipped" in line for line in drawn)
    if columns >= 80:
        assert any("100%" in line and "40.0 MiB of 40.0 MiB" in line for line in drawn)
    assert max(map(len, drawn)) <= columns


def test_bar_is_gone_in_the_end_and_the_cursor_is_back(source: Path) -> None:
    text = on_terminal("copy", "-p", source, source.with_name("new"))
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    # The last that happens to the bar's lines is that they are erased.
    assert text.rindex("\x1b[2K") > text.rindex("━")
    assert text.rindex("copied 40.0 MiB") > text.rindex("\x1b[2K")


def test_bar_of_a_stream_says_how_much_came(tmp_path: Path) -> None:
    text = on_terminal("copy", "-p", "-", tmp_path / "new", feed=[os.urandom(3 * MiB)])
    assert "copy" in text
    assert "3.0 MiB" in text.split("copied ")[0]


def test_short_copy_shows_no_bar(source: Path) -> None:
    text = on_terminal("copy", "--no-flush", source, source.with_name("new"))
    assert text.startswith("copied ")


def test_bar_is_not_drawn_over_log_lines(source: Path) -> None:
    text = on_terminal("copy", "--log-level", "debug", source, source.with_name("new"))
    assert "━" not in text


def test_nothing_is_shown_where_it_is_not_wanted(source: Path) -> None:
    text = on_terminal("copy", "--progress=none", source, source.with_name("new"))
    assert text.startswith("copied ")
    assert diskcopy("copy", source, source.with_name("new")).stderr.startswith("copied ")


def test_lines_in_a_log(source: Path) -> None:
    done = diskcopy("copy", "-p", "--verify", source, source.with_name("new"))
    phases = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert list(dict.fromkeys(phases))[:3] == ["copy", "flush", "verify"]
    assert "copy: 100%, 40.0 MiB of 40.0 MiB" in done.stderr
    assert "\x1b" not in done.stderr


def test_json_lines_begin_and_end_each_phase(source: Path) -> None:
    done = diskcopy("copy", "--progress=json", "--verify", "--json", source, source.with_name("new"))
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert list(dict.fromkeys(line["phase"] for line in lines)) == ["copy", "flush", "verify"]
    for phase in ("copy", "verify"):
        own = [line for line in lines if line["phase"] == phase]
        assert (own[0]["done"], own[-1]["done"]) == (0, 40 * MiB)
        assert all(line["done"] == line["data"] + line["zero"] + line["hole"] for line in own)
        assert [line["done"] for line in own] == sorted(line["done"] for line in own)
    assert set(lines[0]) == {*Progress._fields, "rate", "remaining"}
    assert json.loads(done.stdout)["size"] == 40 * MiB


def test_json_lines_are_not_mixed_with_text(source: Path) -> None:
    done = diskcopy("copy", "--progress=json", source, source.with_name("new"))
    assert all(json.loads(line) for line in done.stderr.splitlines())


def test_figures() -> None:
    now = Progress("copy", 4 << 30, 1 << 30, 1 << 29, 1 << 28, 1 << 28, 2.0)
    assert figures(now) == ["25%", "1.0 GiB of 4.0 GiB", "512.0 MiB/s", "0:06 left"]
    assert skipped(now) == "skipped 256.0 MiB of holes, 256.0 MiB of zeroes"
    assert figures(now._replace(size=None)) == ["1.0 GiB", "512.0 MiB/s"]
    nothing = Progress("copy", 0, 0, 0, 0, 0, 0.0)
    assert figures(nothing) == ["100%", "0 B of 0 B", "0 B/s"]
    assert skipped(nothing) == ""


def test_text_for_people() -> None:
    assert [duration(s) for s in (0, 7.4, 760, 11100)] == ["0:00", "0:07", "12:40", "3:05:00"]
    assert [amount(n) for n in (0, 1, 1023)] == ["0 bytes", "1 byte", "1023 bytes"]
    assert amount(1536) == "1.5 KiB (1536 bytes)"
    assert amount(None) == "unknown"
    assert printable("a\x1b[0m\n\udcffé") == "a\\x1b[0m\\n\\udcffé"


def test_rich_is_loaded_for_a_bar_only(source: Path) -> None:
    program = "import sys; from diskcopy.cli import main; main(sys.argv[1:]); print('rich' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, "copy", "--progress=json", source, source.with_name("new")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
