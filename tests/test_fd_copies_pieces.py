# SPDX-License-Identifier: Apache-2.0
"""copy_pieces makes the target's range equal to the source's, and leaves everything else alone."""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disks import piece, write_sparse

from diskcopy import _fd
from diskcopy.errors import FdFailure

OLD = 0xFF


@contextmanager
def descriptors(source: Path, target: Path, target_flags: int = os.O_RDWR) -> Iterator[tuple[int, int]]:
    fds = os.open(source, os.O_RDONLY), os.open(target, target_flags)
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def allocated(path: Path) -> int:
    return os.stat(path).st_blocks * 512


@pytest.mark.parametrize(("detect", "target_is_zero"), [*itertools.product([False, True], repeat=2)])
@pytest.mark.parametrize("seed", range(6))
def test_any_range_of_any_sparse_file(tmp_path: Path, seed: int, detect: bool, target_is_zero: bool) -> None:
    rng = random.Random(seed)
    source, target = tmp_path / "source", tmp_path / "target"
    size = rng.choice([1, 511, 4095, 4096, 4097, 65_536, rng.randrange(1_500_000), rng.randrange(1_500_000)])
    content = write_sparse(source, size, rng)
    for _ in range(4):
        old = bytes(size) if target_is_zero else bytes([OLD]) * size
        target.unlink(missing_ok=True)
        with open(target, "wb") as file:
            file.truncate(size)
            file.write(b"" if target_is_zero else old)
        start, end = sorted(rng.choice([0, size, rng.randrange(size + 1)]) for _ in range(2))
        granularity = rng.choice([512, 4096, 65_536])
        buffer = bytearray(granularity * rng.randrange(1, 20) + rng.randrange(granularity))
        with descriptors(source, target) as (a, b):
            *moved, failure = _fd.copy_pieces(
                a, b, piece(start, end), buffer, granularity, detect, target_is_zero
            )
        assert failure is None
        assert sum(moved) == end - start
        assert target.read_bytes() == old[:start] + content[start:end] + old[end:]
        if not detect:
            assert moved[1] == 0


def test_zeroes_take_no_space(tmp_path: Path) -> None:
    """Allocated zeroes of the source and old blocks of the target; without detection they are kept."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(1 << 20))
    target.write_bytes(bytes([OLD]) * (1 << 20))
    with descriptors(source, target) as (a, b):
        assert _fd.copy_pieces(a, b, piece(0, 1 << 20), bytearray(1 << 16), 4096, True, False) == (
            0,
            1 << 20,
            0,
            None,
        )
        assert allocated(target) == 0
        assert _fd.copy_pieces(a, b, piece(0, 1 << 20), bytearray(1 << 16), 4096, False, True) == (
            1 << 20,
            0,
            0,
            None,
        )
    # The filesystem's own blocks that say where these lie count as well.
    assert 1 << 20 <= allocated(target) <= (1 << 20) + 8192
    assert target.read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize("tail", [0, 1, 1000, 4096, 5000])
def test_files_that_end_in_a_hole(tmp_path: Path, tail: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"A" * 4096)
    os.truncate(source, 4096 + tail)
    target.write_bytes(bytes([OLD]) * (4096 + tail))
    with descriptors(source, target) as (a, b):
        moved = _fd.copy_pieces(a, b, piece(0, 4096 + tail), bytearray(4096), 4096, True, False)
    assert moved == (4096, 0, tail, None)
    assert target.read_bytes() == source.read_bytes()


def test_files_of_no_size(tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    (tmp_path / "target").touch()
    with descriptors(tmp_path / "source", tmp_path / "target") as (a, b):
        assert _fd.copy_pieces(a, b, piece(0, 0), bytearray(4096), 4096, True, False) == (0, 0, 0, None)
        assert list(_fd.data_ranges(a, 0, 0, 5)[0]) == []
        assert _fd.read_into(a, bytearray(), 0) == 0
        assert _fd.read_into(a, bytearray(9), 5) == 0
        _fd.write_from(b, b"", 0)
        _fd.make_zero(b, 0, 0, True)


@pytest.mark.parametrize("left", [0, 1000, 4096, 6000, 8192])
@pytest.mark.parametrize("ends_in", ["data", "hole"])
def test_a_source_cut_short_is_told(tmp_path: Path, left: int, ends_in: str) -> None:
    """Also where only a hole is missing: what is gone must not be copied as zeroes."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"A" * 4096 + (b"A" * 8192 if ends_in == "data" else b""))
    os.truncate(source, 12_288)
    target.write_bytes(bytes([OLD]) * 12_288)
    with descriptors(source, target) as (a, b):
        os.truncate(source, left)
        *_, failure = _fd.copy_pieces(a, b, piece(0, 12_288), bytearray(4096), 4096, True, False)
        assert isinstance(failure, FdFailure)
        assert (failure.errno, failure.action, failure.offset) == (0, "read", left)
        if left < 4096:
            return
        with pytest.raises(FdFailure) as caught:
            _fd.data_ranges(a, left, 12_288, 9)
        assert (caught.value.errno, caught.value.offset) == (0, left)


def test_a_target_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"A" * 4096 + bytes(4096))
    target.write_bytes(bytes([OLD]) * 8192)
    with descriptors(source, target, os.O_RDONLY) as (a, b):
        *moved, failure = _fd.copy_pieces(a, b, piece(0, 8192), bytearray(8192), 4096, True, False)
        assert moved == [0, 0, 0]
        assert failure is not None
        assert (failure.errno, failure.action, failure.offset) == (errno.EBADF, "write", 0)
        for punch in (True, False):
            with pytest.raises(FdFailure) as caught:
                _fd.make_zero(b, 0, 8192, punch)
            assert (caught.value.errno, caught.value.action) == (errno.EBADF, "zero")
    assert target.read_bytes() == bytes([OLD]) * 8192


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"A" * 9)
    with descriptors(tmp_path / "file", tmp_path / "file") as (a, b):
        for buffer, granularity in [
            (bytearray(9), 0),
            (bytearray(9), 10),
            (bytearray(), 1),
            (bytearray(9), 2**63 + 1),
        ]:
            with pytest.raises(ValueError, match="at least one block"):
                _fd.copy_pieces(a, b, piece(0, 9), buffer, granularity, True, True)
        with pytest.raises(TypeError):
            _fd.copy_pieces(a, b, piece(0, 9), None, 4096, True, True)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            _fd.read_into(a, None, 0)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            _fd.write_from(a, None, 0)  # type: ignore[arg-type]
        with pytest.raises(BufferError):
            _fd.read_into(a, b"read only", 0)
        for call in (lambda: _fd.read_into(a, bytearray(9), -1), lambda: _fd.write_from(b, b"A", -1)):
            with pytest.raises(FdFailure) as caught:
                call()
            assert caught.value.errno == errno.EINVAL


@pytest.mark.root
def test_a_full_target_is_told(tmp_path: Path, mounted: Callable[[str, int], Path]) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 << 20))
    target = mounted("tmpfs", 1 << 20) / "target"
    target.touch()
    with descriptors(source, target) as (a, b):
        *moved, failure = _fd.copy_pieces(a, b, piece(0, 3 << 20), bytearray(1 << 16), 4096, True, True)
    assert failure is not None
    assert (failure.errno, failure.action, failure.offset) == (errno.ENOSPC, "write", 1 << 20)
    assert moved == [(1 << 20), 0, 0]


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "size"), [("exfat", 40 << 20), ("xfs", 320 << 20), ("btrfs", 120 << 20), ("tmpfs", 40 << 20)]
)
def test_filesystems_with_and_without_holes(
    tmp_path: Path, mounted: Callable[[str, int], Path], kind: str, size: int
) -> None:
    """Both ways: exfat has neither holes nor punching; tmpfs punches but has no zero range."""
    folder = mounted(kind, size)
    rng = random.Random(kind)
    for where, there in ((tmp_path, folder), (folder, tmp_path)):
        source, target = where / "source", there / "target"
        content = write_sparse(source, 2_000_001, rng)
        target.write_bytes(bytes([OLD]) * len(content))
        with descriptors(source, target) as (a, b):
            *moved, failure = _fd.copy_pieces(
                a, b, piece(0, len(content)), bytearray(1 << 17), 4096, True, False
            )
            assert failure is None
            assert sum(moved) == len(content)
            assert target.read_bytes() == content
            for punch in (True, False):
                _fd.make_zero(b, 5000, 1_000_001, punch)
                assert target.read_bytes() == content[:5000] + bytes(995_001) + content[1_000_001:]
                _fd.write_from(b, content, 0)


@pytest.mark.root
@pytest.mark.parametrize("sector", [512, 4096])
def test_old_bytes_of_a_block_device_never_show_through(
    tmp_path: Path, loop_device: Callable[..., str], sector: int
) -> None:
    size = 1 << 20
    content = write_sparse(tmp_path / "source", size, random.Random(sector), unit=1000)
    (tmp_path / "medium").write_bytes(bytes([OLD]) * size)
    device = Path(loop_device(tmp_path / "medium", "--sector-size", str(sector)))
    with descriptors(tmp_path / "source", device) as (a, b):
        *moved, failure = _fd.copy_pieces(a, b, piece(0, size), bytearray(1 << 16), 4096, True, False)
        assert failure is None
        assert all(moved)
        os.fsync(b)
    assert device.read_bytes() == content
    with descriptors(device, tmp_path / "source") as (a, _):
        assert list(_fd.data_ranges(a, 0, size, 9)[0]) == [0, size], "a device knows no holes"
