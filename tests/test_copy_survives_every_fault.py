# SPDX-License-Identifier: Apache-2.0
"""Whichever call of whichever storage fails: an error in words, the old target whole, and nothing left.
Whichever byte of the target rots: verifying says so, or the disk reads as it should all the same."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qemu_images import KiB, MiB, content, run

import diskcopy
from diskcopy.engine.copy import copy
from diskcopy.errors import Error, Mismatch, NoSpace, SystemFailure
from diskcopy.formats.qcow2.reader import Qcow2
from diskcopy.formats.qcow2.writer import Qcow2Writer
from diskcopy.formats.raw import Raw
from diskcopy.image import Image, Layer
from diskcopy.layers.fail import Fail
from diskcopy.storage.file import File, NewFile

TARGETS: dict[str, dict[str, Any] | None] = {
    "raw": None,
    "qcow2": {},
    "zlib": {"compression": "zlib"},
    "zstd": {"compression": "zstd", "cluster_size": 4 * KiB},
    "small": {"cluster_size": 512},
    "metadata": {"preallocate": "metadata"},
    "full": {"preallocate": "full"},
}


def new_target(path: Path, kind: str, size: int, wrap: Callable[[Image], Image]) -> Image:
    """A target of a kind of `TARGETS`, over wrap(its file)."""
    options = TARGETS[kind]
    if options is None:
        return Raw(wrap(NewFile(str(path), size)))
    return Qcow2Writer(wrap(NewFile(str(path))), size, **options)


def make_overlay(folder: Path) -> str:
    """An overlay with compressed clusters, over an overlay, over a raw file: 1 MiB, all in use."""
    rng = random.Random(7)
    (folder / "base").write_bytes(rng.randbytes(300 * KiB) + bytes(100 * KiB) + rng.randbytes(624 * KiB))
    os.chdir(folder)
    for name, below, kind in (("middle", "base", "raw"), ("top", "middle", "qcow2")):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", kind, name)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 64k 128k", "-c", "write -z 256k 64k", "middle")
    run("qemu-io", "-f", "qcow2", "-c", "write -c -P 2 512k 64k", "-c", "write -P 3 900k 8k", "top")
    return str(folder / "top")


def opened(path: str, wrap: Callable[[Image, str], Image], kind: str = "qcow2") -> Image:
    """The stack at a path, over wrap(file, its name) for each of its files."""
    storage = wrap(File(path), os.path.basename(path))
    if kind == "raw":
        return Raw(storage)
    folder = os.path.dirname(path)
    try:
        return Qcow2(storage, lambda name, format: opened(os.path.join(folder, name), wrap, format or "raw"))
    except Error:
        storage.close()
        raise


@pytest.mark.parametrize("old", [None, b"precious"], ids=["new", "existing"])
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("action", ["write", "zero", "flush", "commit"])
def test_every_call_of_the_target(
    tmp_path: Path, monkeypatch, action: str, kind: str, old: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    disk = random.Random(3).randbytes(200 * KiB) + bytes(200 * KiB) + b"x" * 100 * KiB
    (tmp_path / "a").write_bytes(disk)
    target = tmp_path / "b"
    if old is not None:
        target.write_bytes(old)
    number = 0
    while True:
        # Early calls one by one, then in growing steps: small clusters make hundreds.
        def failing(file: Image, after: int = number) -> Image:
            return Fail(file, action, after=after, errno=errno.ENOSPC)

        with File("a") as source:
            try:
                with new_target(target, kind, len(disk), failing) as writing:
                    copy(Raw(source), writing, workers=1 + number % 2)
            except NoSpace as failure:
                said = str(failure)
            else:
                break
        assert "no space left on device" in said
        assert sorted(os.listdir(tmp_path)) == (["a", "b"] if old else ["a"])
        assert old is None or target.read_bytes() == old
        number += 1 + number // 8
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert content("b", "raw" if kind == "raw" else "qcow2") == disk


@pytest.mark.parametrize("name", ["base", "middle", "top"])
@pytest.mark.parametrize("action", ["read", "find data"])
def test_every_call_of_every_file_of_a_chain(tmp_path: Path, monkeypatch, action: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    source = make_overlay(tmp_path)
    disk = content(source)
    before = sorted(os.listdir(tmp_path))
    failures = 0
    while True:

        def failing(file: Image, its: str, after: int = failures) -> Image:
            return Fail(file, action, after=after) if its == name else file

        try:
            with opened(source, failing) as reading:
                with new_target(tmp_path / "b", "raw", len(disk), lambda file: file) as writing:
                    copy(reading, writing, workers=1 + failures % 2)
        except SystemFailure as failure:
            said = str(failure)
        else:
            break
        assert f"{name}: cannot {action}: input/output error" in said
        assert sorted(os.listdir(tmp_path)) == before
        failures += 1
    assert failures
    assert (tmp_path / "b").read_bytes() == disk


class Rotten(Layer):
    """Storage in which a bit has changed when it is read again."""

    def __init__(self, image: Image, at: int) -> None:
        super().__init__(image)
        self._at = at

    def _reread(self) -> Image:
        fd = self.image.fileno()
        assert fd is not None
        at = self._at % os.fstat(fd).st_size
        os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 0x10]), at)
        return super()._reread()


def verified(target: Path, kind: str, disk: bytes, at: int) -> bool:
    """Whether the copy of "a" was made although the byte at `at` of its file rotted."""
    with File("a") as source:
        try:
            with new_target(target, kind, len(disk), lambda file: Rotten(file, at)) as writing:
                copy(Raw(source), writing, verify_target=True)
        except Mismatch:
            return False
    return True


@pytest.mark.parametrize("kind", TARGETS)
def test_every_part_of_the_target_rots(tmp_path: Path, monkeypatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(kind)
    disk = rng.randbytes(1 * MiB) + bytes(512 * KiB) + b"text " * 100_000
    disk = disk[: len(disk) // 512 * 512]
    (tmp_path / "a").write_bytes(disk)
    found = 0
    for _ in range(25):
        at = rng.choice([rng.randrange(256), rng.randrange(512 * KiB), rng.randrange(1 << 40)])
        if verified(tmp_path / "b", kind, disk, at):
            # Refcounts and padding: what no reader of the disk looks at.
            assert diskcopy.compare("a", "b", right_format="raw" if kind == "raw" else "qcow2").same
            os.unlink("b")
        else:
            found += 1
        assert os.listdir(tmp_path) == ["a"]
    assert found >= 6


def test_folder_removed_during_the_copy(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * MiB)
    (tmp_path / "folder").mkdir()

    def remove(progress: diskcopy.Progress) -> None:
        if (tmp_path / "folder").exists():
            (tmp_path / "folder").rmdir()

    with pytest.raises(Error, match="folder/b: cannot give the finished file its name: no such file"):
        diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "folder" / "b"), progress=remove)
    assert os.listdir(tmp_path) == ["a"]
