# SPDX-License-Identifier: Apache-2.0
"""A target that takes everything and keeps nothing: to time a source alone."""

from __future__ import annotations

from diskcopy.image import Block, Image


class Null(Image):
    """Swallows what is written, of any size."""

    name = "null:"
    size = None
    block = Block(1, 4096)
    can = frozenset({"write", "resize"})
    is_zero = True

    def _write(self, offset: int, buffer: memoryview) -> None:
        """Nothing is kept."""

    def _zero(self, offset: int, length: int, punch: bool) -> bool:
        return True

    def _resize(self, size: int) -> None:
        """Any size will do."""

    def describe(self) -> dict[str, object]:
        return {"storage": "null"}
