# SPDX-License-Identifier: Apache-2.0
"""A disk in memory: for tests, and for programs that make small images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from diskcopy.errors import Corrupt
from diskcopy.extents import Extent, Facts
from diskcopy.image import Block, Image


class Memory(Image):
    """An image held in a bytearray; with `facts` it reports those extents, true or not."""

    block = Block(1, 4096)

    def __init__(
        self, content: bytes | bytearray | int, *, name: str = "memory", facts: Iterable[Extent] | None = None
    ) -> None:
        """
        content: its bytes, or a number of zero bytes
        facts: the extents to report; without, it knows nothing and all is data
        """
        self.name = name
        self.content = bytearray(content)
        self.size = len(self.content)
        self.is_zero = isinstance(content, int)
        self._facts = None if facts is None else list(facts)
        self.can = frozenset({"read", "write", "reread"} | ({"extents"} if facts is not None else set()))

    def _readinto(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = memoryview(self.content)[offset : offset + buffer.nbytes]

    def _extents(self, offset: int, length: int) -> Iterator[Facts]:
        if self._facts is None:
            raise Corrupt(self.name, "knows no extents")
        return iter(self._facts)

    def _write(self, offset: int, buffer: memoryview) -> None:
        self.content[offset : offset + buffer.nbytes] = buffer

    def describe(self) -> dict[str, object]:
        return {"storage": "memory", "size": self.size}
