# SPDX-License-Identifier: Apache-2.0
"""The copy writes data, leaves zeroes out of a zero target, and zeroes any other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from disks import KiB, picture

from diskcopy.engine.copy import copy
from diskcopy.image import Image, Layer
from diskcopy.storage.memory import Memory

UNIT = 64 * KiB


class Recorded(Layer):
    """Keeps what is asked of it: a picture with W where written, Z where zeroed, . where left alone."""

    def __init__(self, image: Image) -> None:
        super().__init__(image)
        self.drawing = ["."] * ((image.size or 0) // UNIT)

    def _draw(self, letter: str, offset: int, length: int) -> None:
        assert offset % UNIT == length % UNIT == 0
        for n in range(offset // UNIT, (offset + length) // UNIT):
            self.drawing[n] += letter

    def _write(self, offset: int, buffer: memoryview) -> None:
        self._draw("W", offset, buffer.nbytes)
        super()._write(offset, buffer)

    def _zero(self, offset: int, length: int, punch: bool) -> bool:
        self._draw("Z", offset, length)
        self.image.content[offset : offset + length] = bytes(length)  # type: ignore[attr-defined]
        return True

    @property
    def seen(self) -> str:
        return "".join(calls.removeprefix(".") or "." for calls in self.drawing)


def cases() -> Iterator[object]:
    for drawing, fresh, used in [
        ("A", "W", "W"),
        ("-", ".", "Z"),
        ("0", ".", "Z"),
        ("z", ".", "Z"),
        ("AB-0zzC", "WW....W", "WWZZZZW"),
        ("--A", "..W", "ZZW"),
        ("zAz", ".W.", "ZWZ"),
        ("-" * 300 + "A" + "-" * 300, "." * 300 + "W" + "." * 300, "Z" * 300 + "W" + "Z" * 300),
    ]:
        yield pytest.param(drawing, True, fresh, id=f"{drawing[:8]}-onto-zeroes")
        yield pytest.param(drawing, False, used, id=f"{drawing[:8]}-onto-old-data")


@pytest.mark.parametrize(("drawing", "is_zero", "expected"), list(cases()))
def test_each_row(drawing: str, is_zero: bool, expected: str) -> None:
    source = picture(drawing)
    below = Memory(len(source.content) if is_zero else b"\xff" * len(source.content))
    target = Recorded(below)
    copy(source, target)
    assert below.content == source.content
    assert target.seen == expected


def test_zeroes_are_written_where_they_are_not_looked_for() -> None:
    source = picture("Az-0")
    target = Recorded(Memory(len(source.content)))
    done = copy(source, target, detect_zeroes=False)
    assert target.seen == "WW.."
    assert (done.data, done.zero + done.hole) == (2 * UNIT, 2 * UNIT)


def test_every_byte_is_counted_once() -> None:
    source = picture("AzB--0" * 100)
    done = copy(source, Memory(len(source.content)))
    assert done.data == 200 * UNIT
    assert done.data + done.zero + done.hole == done.size == len(source.content)


def test_false_extents_cost_sparseness_only() -> None:
    """An image that knows nothing of its holes is copied whole, and right."""
    source = picture("A--B")
    source.can -= {"extents"}
    target = Recorded(Memory(len(source.content)))
    copy(source, target)
    assert target.seen == "W..W"
