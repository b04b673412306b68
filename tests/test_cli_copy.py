# SPDX-License-Identifier: Apache-2.0
"""`diskcopy copy` copies, and says on the right stream what it came to."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, diskcopy, fails, names
from disks import MiB, sparse_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    sparse_file(tmp_path / "disk.raw", 1, 5 * MiB + 512)
    return tmp_path / "disk.raw"


def test_summary_for_people_is_on_stderr(source: Path) -> None:
    target = source.with_name("copy.raw")
    done = diskcopy("copy", source, target)
    assert (done.returncode, done.stdout) == (0, "")
    assert target.read_bytes() == source.read_bytes()
    first, second = done.stderr.splitlines()
    assert first.startswith("copied 5.0 MiB in ")
    assert ("data, " in first and first.endswith("holes")) or "a reflink" in first
    assert second.startswith(f"{target} takes ")


def test_report_is_one_json_document_on_stdout(source: Path) -> None:
    target = source.with_name("copy.raw")
    done = diskcopy("copy", "--json", "--verify", source, target)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["source"], report["target"]) == (str(source), str(target))
    assert report["size"] == 5 * MiB + 512 == report["data"] + report["zero"] + report["hole"]
    assert report["checksum"] == diskcopy("checksum", source).stdout.split()[0]


@pytest.mark.parametrize("words", [[], ["--json"], ["-p"], ["--progress=json", "--json"]])
def test_standard_output_as_target_gets_the_disk_and_nothing_else(source: Path, words: list[str]) -> None:
    done = diskcopy("copy", *words, source, "-", text=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == source.read_bytes()
    if "--json" in words:
        assert b'"target": "-"' in done.stderr


def test_standard_input_as_source(source: Path) -> None:
    target = source.with_name("copy.raw")
    content = source.read_bytes()
    done = diskcopy("copy", "-", target, input=content, text=False)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == content


@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize("option", ["-p", "--progress", "--progress=bar"])
def test_progress_takes_no_word_for_its_value(source: Path, option: str, position: int) -> None:
    words = ["copy", str(source), str(source.with_name("copy.raw"))]
    done = diskcopy(*words[:position], option, *words[position:])
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("copy: ")


def test_words_after_two_dashes_are_names(tmp_path: Path) -> None:
    (tmp_path / "--progress").write_bytes(b"disk")
    done = diskcopy("copy", "--", "--progress", "-p", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "-p").read_bytes() == b"disk"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe\n\x1b[31m"
    with open(name, "wb") as file:
        file.write(b"disk")
    done = subprocess.run([*COMMAND, "copy", name, name + b"2"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stderr
    assert done.stderr.count(b"\n") == 2
    with open(name + b"2", "rb") as file:
        assert file.read() == b"disk"


def test_warnings_are_lines_of_their_own(source: Path) -> None:
    # The source grows while the first bytes of it are on their way through the pipe.
    target = source.with_name("fifo")
    os.mkfifo(target)
    command = [*COMMAND, "copy", "--force-share", str(source), str(target)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        with open(target, "rb") as fifo:
            assert len(fifo.read(4096)) == 4096
            with open(source, "ab") as file:
                file.write(b"more")
            fifo.read()
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert said.splitlines()[-1].startswith(f"diskcopy: warning: {source}: ")


def test_errors_are_one_line(source: Path) -> None:
    folder = source.parent
    there = names(folder)
    assert "no such file" in fails(1, "copy", folder / "missing", folder / "new")
    assert "is a directory" in fails(1, "copy", folder, folder / "new")
    assert "is a directory" in fails(1, "copy", source, folder)
    assert "folder does not exist" in fails(1, "copy", source, folder / "no" / "new")
    assert "is what the copy reads" in fails(1, "copy", source, source)
    assert "\\n" in fails(1, "copy", folder / "two\nlines", folder / "new")
    assert names(folder) == there


def test_debug_log_shows_each_layer(source: Path) -> None:
    done = diskcopy("copy", "--log-level", "debug", source, source.with_name("copy.raw"))
    assert "diskcopy: DEBUG: " in done.stderr
    assert ": commit" in done.stderr
    before = diskcopy("--log-level", "debug", "copy", source, source.with_name("copy.raw"))
    assert ": commit" in before.stderr
