# SPDX-License-Identifier: Apache-2.0
"""clone shares all blocks where the filesystem can and says no elsewhere; either leaves a usable target."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from diskcopy import _fd

CONTENT = os.urandom(1 << 20)


def clone(source: Path, target: Path) -> bool:
    source.write_bytes(CONTENT)
    target.write_bytes(b"old")
    fds = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR)
    try:
        return _fd.clone(*fds)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.root
@pytest.mark.parametrize(("kind", "size"), [("xfs", 320 << 20), ("btrfs", 120 << 20)])
def test_blocks_are_shared(mounted: Callable[[str, int], Path], kind: str, size: int) -> None:
    folder = mounted(kind, size)
    (folder / "first").write_bytes(CONTENT)
    os.sync()
    before = os.statvfs(folder).f_bfree
    assert clone(folder / "source", folder / "target")
    os.sync()
    assert (folder / "target").read_bytes() == CONTENT
    taken = (before - os.statvfs(folder).f_bfree) * os.statvfs(folder).f_frsize
    assert taken < 1.7 * len(CONTENT), "the source's space, not twice that"
    with open(folder / "target", "r+b") as file:
        file.write(b"changed")
    assert (folder / "source").read_bytes() == CONTENT


@pytest.mark.root
def test_filesystems_without_it_say_no(mounted: Callable[[str, int], Path]) -> None:
    plain, other = mounted("ext4", 20 << 20), mounted("xfs", 320 << 20)
    for source, target in ((plain, plain), (plain, other), (other, plain)):
        assert not clone(source / "source", target / "target")
        assert (target / "target").read_bytes() == b"old"


def test_early_writeback_is_a_hint(tmp_path: Path) -> None:
    """Nothing to see, and nothing fails, whatever the descriptor is."""
    out, into = os.pipe()
    fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    try:
        _fd.write_from(fd, CONTENT, 0)
        _fd.start_writeback(fd, 0, len(CONTENT))
        _fd.start_writeback(into, 0, 1)
        _fd.start_writeback(-1, 0, 1)
        assert os.pread(fd, len(CONTENT), 0) == CONTENT
    finally:
        for one in (fd, out, into):
            os.close(one)
