# SPDX-License-Identifier: Apache-2.0
"""What an image refers to is a file or block device, or is refused at once: an image cannot make us wait."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import diskcopy
from diskcopy.errors import Error


def overlay(folder: Path, backing: str, backing_format: str = "raw") -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", backing_format, "top", "1M"],
        check=True,
        cwd=folder,
    )


@pytest.mark.parametrize(
    ("backing", "message"),
    [
        ("fifo", "fifo: is neither a file nor a block device; top refers to it"),
        ("/dev/zero", "/dev/zero: is neither a file nor a block device; top refers to it"),
        (".", ".: is a directory; name the image in it"),
        ("nothing", "nothing: cannot open: no such file or directory; top refers to it"),
        (
            "nbd://localhost/x",
            "top: refers to 'nbd://localhost/x', and only files and ssh:// are followed; copy it first",
        ),
    ],
)
def test_other_things(tmp_path: Path, monkeypatch, backing: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    overlay(tmp_path, backing)
    with pytest.raises(Error) as caught:
        diskcopy.copy("top", "target")
    assert str(caught.value) == message
    assert not os.path.exists("target")


def test_a_dash_is_a_file_like_any_other(tmp_path: Path, monkeypatch) -> None:
    """In an image it does not mean standard input."""
    monkeypatch.chdir(tmp_path)
    Path("-").write_bytes(b"x" * 1000)
    overlay(tmp_path, "-")
    diskcopy.copy("top", "target")
    assert Path("target").read_bytes() == (b"x" * 1000).ljust(1 << 20, b"\0")


def test_a_format_that_is_not_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    overlay(tmp_path, "disk", "vmdk")
    with pytest.raises(
        Error, match=r"top: refers to 'disk', an image of format 'vmdk', which diskcopy does not"
    ):
        diskcopy.open("top")
