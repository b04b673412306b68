# SPDX-License-Identifier: Apache-2.0
"""No file is written that the copy reads, whatever name it is given by."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from disks import MiB, sparse_file

import diskcopy
from diskcopy.errors import Refused


def refused(source: Path | str, target: Path | str) -> None:
    with pytest.raises(Refused, match="is what the copy reads, or holds it"):
        diskcopy.copy(str(source), str(target), target_format="raw")


def test_by_any_name(tmp_path: Path) -> None:
    content = sparse_file(tmp_path / "a", 1, MiB)
    os.link(tmp_path / "a", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("a")
    for name in ("a", "hard", "soft", "./a"):
        refused(tmp_path / "a", f"{tmp_path}/{name}")
        refused(f"{tmp_path}/{name}", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content


@pytest.mark.parametrize("name", ["a/", "nowhere/../a", "a/../a", "./a//"])
def test_by_names_that_only_look_like_other_files(tmp_path: Path, monkeypatch, name: str) -> None:
    """The system finds nothing at these names; a file must not be replaced by one of them."""
    content = sparse_file(tmp_path / "a", 1, MiB)
    (tmp_path / "link").symlink_to(name)
    monkeypatch.chdir(tmp_path)
    for target in (name, "link"):
        with pytest.raises(diskcopy.Error):
            diskcopy.copy("a", target, target_format="qcow2")
    assert (tmp_path / "a").read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["a", "link"]


def test_through_the_backing_chain(tmp_path: Path) -> None:
    sparse_file(tmp_path / "base", 1, MiB)
    for overlay, below, kind in (("middle", "base", "raw"), ("top", "middle", "qcow2")):
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", kind, overlay],
            check=True,
            cwd=tmp_path,
        )
    refused(tmp_path / "top", tmp_path / "base")
    refused(tmp_path / "top", tmp_path / "middle")


def test_through_a_data_file(tmp_path: Path) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=d,data_file_raw=on", "a", "1M"],
        check=True,
        cwd=tmp_path,
    )
    refused(tmp_path / "a", tmp_path / "d")


@pytest.mark.root
def test_through_a_loop_device(tmp_path: Path, loop_device) -> None:
    sparse_file(tmp_path / "a", 1, 4 * MiB)
    subprocess.run(
        ["sfdisk", "-q", str(tmp_path / "a")],
        input="start=2048,size=2048\nstart=4096\n",
        text=True,
        check=True,
    )
    device = loop_device(tmp_path / "a", "--partscan")
    refused(device, tmp_path / "a")
    refused(tmp_path / "a", device)
    refused(device, device)


@pytest.mark.root
def test_through_a_loop_device_over_another(tmp_path: Path, loop_device) -> None:
    sparse_file(tmp_path / "a", 1, 4 * MiB)
    below = loop_device(tmp_path / "a")
    above = loop_device(Path(below))
    for names in ((above, below), (above, tmp_path / "a"), (below, tmp_path / "a")):
        refused(*names)
        refused(*reversed(names))
