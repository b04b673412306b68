# SPDX-License-Identifier: Apache-2.0
"""A guest writes its raw disk as it likes, even a qcow2 header: what is declared raw is read as raw."""

from __future__ import annotations

import struct
from pathlib import Path

from qemu_images import KiB, MiB, content, run

import diskcopy

BACKING_FORMAT = struct.pack(">I", 0xE2792ACA)


def forge(folder: Path) -> bytes:
    """A raw disk that looks like an overlay over a secret file; its bytes."""
    (folder / "secret").write_bytes(b"secret" * 1000)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(folder / "secret"), "-F", "raw", "base", "1M")
    # As large as it says that it is, so that all of it is an overlay's disk, too.
    with open("base", "r+b") as file:
        file.truncate(MiB)
    return Path("base").read_bytes()


def test_as_source(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    disk = forge(tmp_path)
    diskcopy.copy("base", "b", source_format="raw")
    assert Path("b").read_bytes() == disk
    assert diskcopy.compare("base", "b", left_format="raw", right_format="raw").same
    diskcopy.copy("base", "b")
    assert Path("b").read_bytes() == (b"secret" * 1000).ljust(MiB, b"\0")


def test_as_backing_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    disk = forge(tmp_path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 512k 64k", "top")
    diskcopy.copy("top", "b")
    got = Path("b").read_bytes()
    assert got == content("top")
    assert got[: 512 * KiB] == disk[: 512 * KiB]


def test_without_a_declared_format(tmp_path: Path, monkeypatch) -> None:
    """The image's own bytes tell, as in qemu."""
    monkeypatch.chdir(tmp_path)
    forge(tmp_path)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    image = Path("top").read_bytes()
    assert image.count(BACKING_FORMAT) == 1
    # An extension that nobody knows, in the place of the one that declares the format.
    Path("top").write_bytes(image.replace(BACKING_FORMAT, b"\x12\x34\x56\x78"))
    diskcopy.copy("top", "b")
    assert Path("b").read_bytes() == content("top") == (b"secret" * 1000).ljust(MiB, b"\0")
