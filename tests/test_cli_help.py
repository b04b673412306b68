# SPDX-License-Identifier: Apache-2.0
"""Each command explains itself, quickly, and wrong usage ends in one line that says the way out."""

from __future__ import annotations

import subprocess
import sys

import pytest
from command import diskcopy, fails

from diskcopy import __version__

COMMANDS = ["copy", "map", "info", "measure", "compare", "checksum"]

SHARED = {"-f", "--format", "--untrusted", "--force-share", "--json", "--log-level", "-h", "--help"}
SHARED |= {"--ssh-config", "--ssh-backend", "--ssh-compression", "--bwlimit"}
OPTIONS = {
    "copy": {
        *SHARED,
        *("-O", "--target-format", "--compress", "--cluster-size", "--preallocate", "--verify"),
        *("--no-detect-zeroes", "--no-flush", "-p", "--progress"),
    },
    "map": SHARED,
    "info": {*SHARED, "--chain"} - {"--untrusted"},
    "measure": {*SHARED, "-O", "--target-format", "--cluster-size", "--preallocate"},
    "compare": {*SHARED, "-F", "--right-format", "--strict"},
    "checksum": SHARED,
}


def offered(text: str) -> set[str]:
    """The options that a help text lists: the words in front of their explanations."""
    found = set()
    for line in text.splitlines():
        if line.startswith("  -"):
            words = line.strip().split("  ")[0].replace(",", " ").split()
            found |= {word for word in words if word.startswith("-")}
    return found


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_group_lists_all_commands_with_whole_sentences(option: str) -> None:
    done = diskcopy(option)
    assert done.returncode == 0
    listed = done.stdout.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)
    assert done.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_command_lists_its_options(name: str) -> None:
    done = diskcopy(name, "--help")
    assert done.returncode == 0
    assert done.stdout == diskcopy(name, "-h").stdout
    assert offered(done.stdout) == OPTIONS[name]
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_version() -> None:
    assert diskcopy("--version").stdout == f"diskcopy {__version__}\n"


def test_no_command_is_wrong_usage_and_shows_help() -> None:
    done = diskcopy()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cpoy"], "cpoy"),
        (["--nonsense"], "--nonsense"),
        (["copy"], "SRC"),
        (["copy", "a"], "DST"),
        (["copy", "a", "b", "c"], "c"),
        (["copy", "--verfy", "a", "b"], "--verfy"),
        (["copy", "-f", "vmdk", "a", "b"], "vmdk"),
        (["copy", "--progress=maybe", "a", "b"], "maybe"),
        (["copy", "--cluster-size", "64Q", "a", "b"], "'64Q' is not a size; write bytes, or 64K"),
        (["copy", "--log-level", "loud", "a", "b"], "loud"),
        (["measure", "a"], "-O"),
        (["compare", "a"], "B"),
    ],
)
def test_wrong_usage(words: list[str], said: str) -> None:
    line = fails(2, *words)
    assert said in line
    command = f"diskcopy {words[0]}" if words[0] in COMMANDS else "diskcopy"
    assert line.endswith(f"; see {command} --help")


@pytest.mark.parametrize(
    "words", [["--compress", "zlib"], ["--cluster-size", "64K"], ["--preallocate", "metadata"]]
)
def test_options_that_a_format_does_not_have_are_wrong_usage(words: list[str], tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert "raw has no" in fails(2, "copy", *words, tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("words", [["--help"], ["copy", "--help"], ["copy", "--nonsense"], ["--version"]])
def test_help_loads_nothing_slow(words: list[str]) -> None:
    program = (
        "import sys; from diskcopy.cli import main; code = main(sys.argv[1:]); sys.stdout.flush();"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    loaded = set(done.stderr.split())
    assert "diskcopy.cli.commands" in loaded
    slow = {"rich", "numpy", "paramiko", "zstandard", "deflate", "json", "hashlib", "dataclasses"}
    assert not loaded & {*slow, "diskcopy.api", "diskcopy.engine", "diskcopy.registry", "diskcopy._fd"}


def test_short_local_copy_loads_nothing_slow(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 4096)
    program = "import sys; from diskcopy.cli import main; assert main(sys.argv[1:]) == 0; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, "copy", tmp_path / "a", tmp_path / "b"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "diskcopy.engine.copy" in loaded
    assert not loaded & {"rich", "numpy", "paramiko", "zstandard", "deflate", "dataclasses"}
