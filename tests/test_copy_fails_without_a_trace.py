# SPDX-License-Identifier: Apache-2.0
"""Where anything fails, the copy says what and where, and leaves the target as it was."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from disks import MiB, picture, sparse_file

import diskcopy
from diskcopy.engine.copy import copy
from diskcopy.errors import Cancelled, Changed, Error, Mismatch, Refused, SystemFailure
from diskcopy.formats.raw import Raw
from diskcopy.layers.fail import Fail
from diskcopy.storage.file import File, NewFile
from diskcopy.storage.memory import Memory


@pytest.mark.parametrize("action", ["read", "write", "flush", "commit", "find data"])
@pytest.mark.parametrize("old", [None, b"precious"], ids=["new", "existing"])
def test_an_error_in_the_middle(tmp_path: Path, action: str, old: bytes | None) -> None:
    sparse_file(tmp_path / "a", 3, 20 * MiB)
    if old:
        (tmp_path / "b").write_bytes(old)
    source, target = Raw(File(str(tmp_path / "a"))), Raw(NewFile(str(tmp_path / "b"), 20 * MiB))
    after = 3 if action in ("read", "write") else None
    broken = {"source": source, "target": target}
    side = "source" if action in ("read", "find data") else "target"
    broken[side] = Fail(broken[side], action, after=after)
    with source, target, pytest.raises(SystemFailure, match=f"cannot {action}: input/output error"):
        copy(broken["source"], broken["target"])
    assert sorted(os.listdir(tmp_path)) == (["a", "b"] if old else ["a"])
    if old:
        assert (tmp_path / "b").read_bytes() == old


def test_an_error_names_file_and_offset(tmp_path: Path) -> None:
    disk = picture("A" * 64)
    with pytest.raises(SystemFailure, match=r"^A+: cannot read: input/output error at offset 1234567$"):
        copy(Fail(disk, "read", at=1234567), Memory(len(disk.content)))


def test_a_source_that_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 4 * MiB)
    with File(str(tmp_path / "a")) as source, NewFile(str(tmp_path / "b"), 4 * MiB) as target:
        os.truncate(tmp_path / "a", 3 * MiB)
        with pytest.raises(Error, match="a: ends early at offset 3145728"):
            copy(Raw(Through(source)), Raw(target))
    assert os.listdir(tmp_path) == ["a"]


class Through(diskcopy.Layer):
    """Hides the descriptor and the holes, so that every byte is read."""

    def __init__(self, image: diskcopy.Image) -> None:
        super().__init__(image)
        self.can -= {"extents"}


def test_a_source_that_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 4 * MiB)

    def meddle(progress: diskcopy.Progress) -> None:
        with open(tmp_path / "a", "r+b") as file:
            file.write(b"y")

    with pytest.raises(Changed, match="a: was written to while it was read; stop what writes to it"):
        diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"), progress=meddle)
    assert os.listdir(tmp_path) == ["a"]
    report = diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"), progress=meddle, force_share=True)
    assert len(report.warnings) == 1


def test_cancelled_from_another_thread(tmp_path: Path) -> None:
    """Within moments, with nothing left."""
    with open(tmp_path / "a", "wb") as file:
        for _ in range(32):
            file.write(os.urandom(8 * MiB))
    cancel = threading.Event()
    threading.Timer(0.05, cancel.set).start()
    with pytest.raises(Cancelled):
        diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b.qcow2"), compress="zlib", cancel=cancel)
    assert os.listdir(tmp_path) == ["a"]


class Rotten(diskcopy.Layer):
    """Storage that takes what is written, and gives back another byte."""

    def _reread(self) -> diskcopy.Image:
        self.image.content[5 * MiB + 17] ^= 1  # type: ignore[attr-defined]
        return self


@pytest.mark.parametrize("drawing", ["A" * 160, "A" * 40 + "-" * 120], ids=["in-data", "in-a-hole"])
def test_verify_finds_what_the_storage_lost(drawing: str) -> None:
    source = picture(drawing)
    with pytest.raises(
        Mismatch, match="does not hold what was written to it, from the first byte at offset 5242897"
    ):
        copy(source, Rotten(Memory(len(source.content))), verify_target=True)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("missing", "b", "missing: cannot open: no such file or directory"),
        (".", "b", ": is a directory; name the image in it"),
        ("a", ".", "is a directory; name the file to write in it"),
        ("a", "no/b", "cannot create: its folder does not exist"),
        ("a", "/dev/no-such-disk", "there is no such device"),
        ("a/b", "b", "cannot open: not a directory"),
        ("nbd://host/disk", "b", "nbd:// is not a location diskcopy knows"),
        ("a", "b.vmdk", "diskcopy does not write vmdk; say -O raw or -O qcow2"),
    ],
)
def test_bad_names(tmp_path: Path, monkeypatch, source: str, target: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    sparse_file(tmp_path / "a", 1, MiB)
    with pytest.raises(Error) as caught:
        diskcopy.copy(source, target)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a"]


def test_no_permission(tmp_path: Path) -> None:
    """Run as nobody, where we are root."""
    sparse_file(tmp_path / "a", 1, MiB)
    (tmp_path / "a").chmod(0)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"))
        except diskcopy.Error as error:
            code = 0 if isinstance(error, PermissionError) and "permission denied" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_known_formats_are_not_taken_for_raw(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"KDMV" + bytes(MiB))
    with pytest.raises(Error, match="is a vmdk image, which diskcopy does not read"):
        diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"), source_format="raw").size == MiB + 4


def test_a_target_with_a_running_reader_or_writer(tmp_path: Path) -> None:
    """A guest that has the old file open would go on with it unseen."""
    sparse_file(tmp_path / "a", 1, MiB)
    (tmp_path / "b").write_bytes(bytes(MiB))
    with File(str(tmp_path / "b"), writable=True):
        with pytest.raises(Refused, match="b: is open for writing in another process"):
            diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"))
        with pytest.raises(Refused, match=r"b: is open for writing in .*--force-share"):
            diskcopy.copy(str(tmp_path / "b"), str(tmp_path / "c"))
        assert diskcopy.copy(str(tmp_path / "b"), str(tmp_path / "c"), force_share=True).size == MiB


def test_progress_comes_and_ends_complete(tmp_path: Path) -> None:
    seen: list[diskcopy.Progress] = []
    sparse_file(tmp_path / "a", 1, 40 * MiB)
    diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"), verify=True, progress=seen.append)
    assert [p.phase for p in seen if p.done == 0] == ["copy", "flush", "flush", "verify"]
    for phase in ("copy", "verify"):
        mine = [p for p in seen if p.phase == phase]
        assert [p.done for p in mine] == sorted(p.done for p in mine)
        assert mine[-1].done == mine[-1].size == 40 * MiB
