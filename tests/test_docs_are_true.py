# SPDX-License-Identifier: Apache-2.0
"""What the pages for people say works when pasted, and options they name exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from disks import MiB, sparse_file

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = ["copy", "map", "info", "measure", "compare", "checksum"]
# Named to say that they are not there yet, or options of other programs.
ELSEWHERE = {"--sparsify", "--resume", "--sparse", "--fsync", "--help", "--flush"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The images that the pages name."""
    sparse_file(tmp_path / "disk.img", 1, 80 * MiB)
    for command in (
        "qemu-img convert -O qcow2 disk.img upload.qcow2",
        "qemu-img create -q -f qcow2 -b disk.img -F raw overlay.qcow2",
        "qemu-img convert -O qcow2 disk.img disk.qcow2",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_runs(page: Path, disks: Path) -> None:
    script = "\n".join(blocks(page, "python"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def command_lines() -> list[str]:
    """The commands of README and recipes that need no device, pipe or make."""
    text = (ROOT / "README.md").read_text()
    lines = [line.replace("\\|", "|") for line in re.findall(r"\| `(diskcopy [^`]*)` \|", text)]
    for page in PAGES:
        lines += [line for block in blocks(page, "sh") for line in block.splitlines()]
    return sorted(
        {line for line in lines if line.startswith("diskcopy") and not re.search(r"/dev/|/mnt/|ssh ", line)}
    )


@pytest.mark.parametrize("line", command_lines())
def test_commands_run(line: str, disks: Path) -> None:
    if "copy.qcow2" in line and "compare" in line:
        subprocess.run(["cp", "disk.qcow2", "copy.qcow2"], check=True)
    line = line.replace("diskcopy", f"{sys.executable} -m diskcopy", 1)
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_options_exist() -> None:
    helps = "".join(
        subprocess.run(
            [sys.executable, "-m", "diskcopy", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for command in COMMANDS
    )
    known = set(re.findall(r"--[a-z-]+", helps)) | ELSEWHERE
    for page in PAGES:
        if page.name != "benchmarks.md":
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text()))
            assert named <= known, f"{page.name}: {named - known}"
