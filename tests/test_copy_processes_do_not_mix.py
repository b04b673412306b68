# SPDX-License-Identifier: Apache-2.0
"""Two processes write one target, or one is killed: it is one copy, whole, or what it was before."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from command import COMMAND, ENVIRONMENT, names
from disks import MiB
from qemu_images import content


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "copy", *words], cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )


@pytest.mark.parametrize("words", [[], ["-O", "qcow2", "--cluster-size", "4K"]], ids=["raw", "qcow2"])
@pytest.mark.parametrize("old", [True, False], ids=["existing", "new"])
def test_two_at_once(tmp_path: Path, words: list[str], old: bool) -> None:
    """Both succeed, and the last one has the name."""
    disks = {name: name.encode() * 16 * MiB for name in "ab"}
    for name, disk in disks.items():
        (tmp_path / name).write_bytes(disk)
    for _ in range(3):
        if old:
            (tmp_path / "t").write_bytes(b"old")
        running = [start(tmp_path, name, "t", "--no-flush", *words) for name in "ab"]
        assert [process.wait() for process in running] == [0, 0]
        assert content(str(tmp_path / "t"), "qcow2" if words else "raw") in disks.values()
        assert names(tmp_path) == ["a", "b", "t"]
        (tmp_path / "t").unlink()


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """On a filesystem that has unnamed files: nothing of the copy is left, and the old target is whole."""
    rng = random.Random(1)
    disk = rng.randbytes(48 * MiB)
    (tmp_path / "a").write_bytes(disk)
    killed = 0
    for number in range(16):
        if number % 2:
            (tmp_path / "t").write_bytes(b"old")
        words = rng.choice([[], ["-O", "qcow2", "--compress", "zlib"], ["--verify"]])
        with start(tmp_path, "a", "t", *words) as process:
            time.sleep(rng.uniform(0.05, 0.4))
            process.kill()
        killed += process.returncode != 0
        left = names(tmp_path)
        if left != ["a"]:
            assert left == ["a", "t"]
            if os.path.getsize(tmp_path / "t") == 3:
                assert number % 2
            else:
                assert content(str(tmp_path / "t"), "qcow2" if "qcow2" in words else "raw") == disk
            (tmp_path / "t").unlink()
        else:
            assert number % 2 == 0
    assert killed
