# SPDX-License-Identifier: Apache-2.0
"""The loop device and mount fixtures give what they say, and clean up after themselves."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MIB = 1 << 20


@pytest.mark.root
def test_a_loop_device_shows_its_file(tmp_path: Path, loop_device: Callable[..., str]) -> None:
    medium = tmp_path / "medium"
    medium.write_bytes(b"first" + bytes(MIB - 5))
    device = loop_device(medium, "--read-only")
    assert Path(device).is_block_device()
    with open(device, "rb") as file:
        assert file.read(5) == b"first"
        assert file.seek(0, os.SEEK_END) == MIB


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "exfat"])
def test_a_mount_is_a_filesystem_of_its_kind(kind: str, mounted: Callable[[str, int], Path]) -> None:
    # mkfs.xfs makes none smaller than 300 MiB.
    folder = mounted(kind, 320 * MIB)
    found = subprocess.check_output(["findmnt", "-no", "FSTYPE", str(folder)], text=True)
    assert found.strip() in (kind, "fuseblk")
    (folder / "file").write_bytes(b"x")


@pytest.mark.root
def test_nothing_is_left_of_them(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (inner / "test_it.py").write_text(
        "def test_it(mounted):\n    mounted('ext4', 8 << 20)\n    assert False\n"
    )
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--basetemp={tmp_path}/base", str(inner)],
        cwd=inner,
        check=False,
    )
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    loops = subprocess.check_output(["losetup", "--noheadings", "--list", "--output", "BACK-FILE"], text=True)
    assert str(tmp_path) not in loops
