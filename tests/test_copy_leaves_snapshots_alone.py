# SPDX-License-Identifier: Apache-2.0
"""Internal snapshots are not copied, and their list, whole or damaged, does not get into the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from qemu_images import MiB, run

import diskcopy
from diskcopy.errors import Corrupt


def test_a_list_of_snapshots(tmp_path: Path) -> None:
    path, target = str(tmp_path / "a"), str(tmp_path / "b")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 1M 100k", path)
    run("qemu-img", "snapshot", "-c", "before", path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 1M 100k", path)
    disk = (b"\2" * 100 * 1024).ljust(3 * MiB, b"\0").rjust(4 * MiB, b"\0")
    report = diskcopy.copy(path, target)
    assert (report.source_format, report.target_format) == ("qcow2", "raw")
    assert Path(target).read_bytes() == disk
    with open(path, "r+b") as file:
        file.seek(64)  # snapshots_offset
        file.seek(int.from_bytes(file.read(8), "big"))
        file.write(b"\xff" * 40)
    with pytest.raises(Corrupt):
        diskcopy.info(path)
    diskcopy.copy(path, target)
    assert Path(target).read_bytes() == disk
