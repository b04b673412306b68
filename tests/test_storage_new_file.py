# SPDX-License-Identifier: Apache-2.0
"""A new file appears at its name complete and at once, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diskcopy.errors import Error, NoSpace, NotFound, NotPermitted, Refused, Unsupported
from diskcopy.storage.file import File, NewFile

CONTENT = b"new " * 1000


@pytest.fixture(params=["unnamed", "hidden"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with and without O_TMPFILE. (exFAT below is one that has it not; it lacks modes and links.)"""
    real = os.open

    def without(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no unnamed files here")
        return real(path, flags, *rest, **more)

    if request.param == "hidden":
        monkeypatch.setattr(os, "open", without)
    place = tmp_path / "folder"
    place.mkdir()
    return place


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def create(path: Path | str, content: bytes = CONTENT) -> None:
    with NewFile(str(path), len(content)) as file:
        file.write(0, content)
        file.flush()
        file.commit()


def test_nothing_is_visible_before_commit(folder: Path) -> None:
    path = folder / "disk"
    with NewFile(str(path), len(CONTENT)) as file:
        file.write(0, CONTENT)
        file.flush()
        assert not path.exists()
        assert all(name.startswith(".disk.") for name in os.listdir(folder))
        file.commit()
        assert os.listdir(folder) == ["disk"]
        file.commit()
        file.abort()
    assert os.listdir(folder) == ["disk"]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("ending", ["abort", "close", "exception"])
def test_nothing_is_left_without_commit(folder: Path, ending: str) -> None:
    (folder / "old").write_bytes(b"old")
    for name in ("new", "old"):
        file = NewFile(str(folder / name), len(CONTENT))
        file.write(0, CONTENT)
        if ending == "abort":
            file.abort()
            file.close()
        elif ending == "close":
            file.close()
        else:
            with pytest.raises(KeyboardInterrupt), file:
                raise KeyboardInterrupt
        file.close()
    assert os.listdir(folder) == ["old"]
    assert (folder / "old").read_bytes() == b"old"


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import os, sys; from diskcopy.storage.file import NewFile; file = NewFile(sys.argv[1], 1 << 20);"
        "file.write(0, bytes(9999)); file.flush(); os.kill(os.getpid(), 9)"
    )
    search = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program, str(tmp_path / "disk")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": search}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


def test_an_old_file_is_replaced_whole_and_keeps_its_mode(folder: Path) -> None:
    path = folder / "disk"
    path.write_bytes(b"old" * 9000)
    path.chmod(0o640)
    with open(path, "rb") as old:
        create(path)
        assert path.read_bytes() == CONTENT
        assert old.read() == b"old" * 9000, "whoever has the old file open keeps it"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert os.listdir(folder) == ["disk"]


def test_a_new_file_has_the_mode_that_the_user_gives_new_files(folder: Path) -> None:
    before = os.umask(0o027)
    try:
        create(folder / "disk")
    finally:
        os.umask(before)
    assert (folder / "disk").stat().st_mode & 0o7777 == 0o640


def test_a_link_stays_a_link(folder: Path) -> None:
    (folder / "there").mkdir()
    (folder / "there" / "disk").write_bytes(b"old")
    (folder / "link").symlink_to("there/disk")
    create(folder / "link")
    assert os.readlink(folder / "link") == "there/disk"
    assert (folder / "there" / "disk").read_bytes() == CONTENT
    (folder / "dangling").symlink_to("there/new")
    create(folder / "dangling")
    assert (folder / "there" / "new").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "name", ["n" * 255, "ü" * 127, "€" * 85, "a\nb", os.fsdecode(b"\xff\xfe disk"), "-", " ", "a:b"]
)
def test_any_name_will_do(folder: Path, name: str) -> None:
    create(folder / name, b"first")
    create(folder / name)
    assert os.listdir(folder) == [name]
    assert (folder / name).read_bytes() == CONTENT


def test_a_file_that_grows(folder: Path) -> None:
    """Without a size: writes and zeroes may go beyond the end, and both move it."""
    with NewFile(str(folder / "disk")) as file:
        assert (file.size, "resize" in file.can) == (0, True)
        file.write(4, b"AB")
        assert file.size == 6
        file.zero(5, 8000)
        assert file.size == 8005
        file.zero(8, 9)
        assert file.size == 8005
        file.resize(9000)
        file.commit()
    assert (folder / "disk").read_bytes() == bytes(4) + b"A" + bytes(8995)


def test_a_preallocated_file_has_its_space(folder: Path) -> None:
    with NewFile(str(folder / "disk"), 1 << 20, preallocate=True) as file:
        assert os.fstat(file.fd).st_blocks * 512 >= 1 << 20
        assert file.read(0, 1 << 20) == bytes(1 << 20)


def test_what_was_flushed_is_read_again(folder: Path) -> None:
    with NewFile(str(folder / "disk"), len(CONTENT), durable=False) as file:
        file.write(0, CONTENT)
        file.flush()
        assert file.reread().read(0, len(CONTENT)) == CONTENT


def test_bad_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for name, kind, text in [
        ("missing/disk", NotFound, "its folder does not exist"),
        ("file/disk", NotFound, "not a directory"),
        ("", Refused, "is a directory"),
        ("fifo", Refused, "not a regular file"),
        ("n" * 256, Error, "name too long"),
    ]:
        with pytest.raises(kind, match=text):
            NewFile(str(tmp_path / name), 1)
    for path in ("/dev/nonexistent", "/dev/disk/by-id/nonexistent"):
        with pytest.raises(Refused, match="no such device"):
            NewFile(path, 1)
    (tmp_path / "link").symlink_to("/dev/nonexistent")
    with pytest.raises(Refused, match="no such device"):
        NewFile(str(tmp_path / "link"), 1)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "file", "link"]


@pytest.mark.parametrize("size", [2**62, 2**63 - 1, 2**63, 2**70])
def test_sizes_that_no_file_has(folder: Path, size: int) -> None:
    with pytest.raises((Error, Unsupported), match="file"):
        NewFile(str(folder / "disk"), size)
    assert os.listdir(folder) == []


def test_the_name_taken_by_a_folder_meanwhile(folder: Path) -> None:
    with NewFile(str(folder / "disk"), 4) as file:
        (folder / "disk").mkdir()
        with pytest.raises(Error, match="give the finished file its name"):
            file.commit()
    assert os.listdir(folder) == ["disk"]


@pytest.mark.root
def test_without_permission() -> None:
    place = Path(tempfile.mkdtemp(prefix="diskcopy-test-"))
    try:
        place.chmod(0o755)
        (place / "secret").write_bytes(b"A")
        (place / "secret").chmod(0o600)
        with as_nobody():
            for action in (lambda: NewFile(str(place / "disk"), 1), lambda: File(str(place / "secret"))):
                with pytest.raises(NotPermitted, match="permission denied") as caught:
                    action()
                assert caught.value.errno == errno.EACCES
                assert isinstance(caught.value, PermissionError)
        assert os.listdir(place) == ["secret"]
        place.chmod(0o777)
        with as_nobody():
            create(place / "disk")
        assert (place / "disk").stat().st_uid == 65534
        create(place / "disk", b"by root")
        assert (place / "disk").stat().st_uid == 65534, "who owned the old file owns the new one"
    finally:
        shutil.rmtree(place)


@pytest.mark.root
def test_exfat_has_neither_unnamed_files_nor_modes(mounted: Callable[[str, int], Path]) -> None:
    folder = mounted("exfat", 40 << 20)
    create(folder / "disk")
    create(folder / "disk", b"replaced")
    with NewFile(str(folder / "other"), 5000) as file:
        file.zero(0, 5000)
        assert file.read(0, 5000) == bytes(5000)
    assert os.listdir(folder) == ["disk"]
    assert (folder / "disk").read_bytes() == b"replaced"


@pytest.mark.root
def test_a_full_filesystem_leaves_nothing(mounted: Callable[[str, int], Path]) -> None:
    folder = mounted("tmpfs", 1 << 20)
    with pytest.raises(NoSpace, match=r"cannot write: no space left on device at offset"):
        with NewFile(str(folder / "disk"), 2 << 20) as file:
            file.write(0, b"A" * (2 << 20))
    with pytest.raises(NoSpace, match="cannot make a file of"):
        NewFile(str(folder / "disk"), 2 << 20, preallocate=True)
    assert os.listdir(folder) == []
    assert os.statvfs(folder).f_bfree == os.statvfs(folder).f_blocks
