# SPDX-License-Identifier: Apache-2.0
"""What an exbibyte of nothing costs: the same as a gigabyte of it."""

from __future__ import annotations

import time

import pytest
from disks import KiB

from diskcopy.engine.compare import compare
from diskcopy.engine.copy import copy
from diskcopy.engine.plan import segments
from diskcopy.engine.verify import checksum
from diskcopy.extents import Extent
from diskcopy.image import Image
from diskcopy.storage.null import Null


class Huge(Image):
    """Zeroes, and a little data at the end."""

    name = "huge"
    can = frozenset({"read", "extents"})

    def __init__(self, size: int) -> None:
        self.size: int = size

    def _readinto(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = b"x" * buffer.nbytes

    def _extents(self, offset, length):
        end = self.size - 64 * KiB
        if offset < end:
            yield Extent(0, end, True, True)
        yield Extent(end, 64 * KiB, False, False)


@pytest.mark.parametrize("size", [(1 << 63) - (1 << 21), 1 << 62])
def test_zeroes_are_cut_into_few_pieces(size: int) -> None:
    count = sum(1 for _ in segments([Huge(size)], 0, size, 4096))
    assert 10 < count < 3000
    began = time.monotonic()
    copy(Huge(size), Null())
    checksum(Huge(size))
    assert compare(Huge(size), Huge(size)).same
    assert time.monotonic() - began < 10
