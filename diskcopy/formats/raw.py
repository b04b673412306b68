# SPDX-License-Identifier: Apache-2.0
"""raw: the disk is the storage's bytes."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from diskcopy.image import Layer


class Raw(Layer):
    """The empty layer: changes nothing, so kernels may work on the descriptor below it."""

    def fileno(self) -> int | None:
        return self.image.fileno()

    def _read_runs(self, offset: int, buffer: memoryview, unit: int) -> array[int]:
        return self.image._read_runs(offset, buffer, unit)

    def _read_next(self, buffer: memoryview, check: Callable[[], None]) -> int:
        return self.image._read_next(buffer, check)

    def describe(self) -> dict[str, object]:
        return {"format": "raw"}
