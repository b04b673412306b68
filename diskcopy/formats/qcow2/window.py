# SPDX-License-Identifier: Apache-2.0
"""An image's extents for many small questions near each other, at the price of few large ones."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator

from diskcopy.extents import Extent
from diskcopy.image import Image

_STRETCH = 4 << 20
_KEPT = 16


class Window:
    """Remembers the extents of the stretches it was last asked about; for one thread."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._end = image._size()
        # The last answer, for a caller who looks whether it covers the next question as well.
        self.last = Extent(0, 0, False, False)
        self._stretches: OrderedDict[int, tuple[list[int], list[Extent]]] = OrderedDict()

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """The extents of the range, clipped to it; neighbours may be alike."""
        if length >= _STRETCH:
            yield from self._image.extents(start, length)
            return
        end = start + length
        while start < end:
            starts, extents = self._stretch(start // _STRETCH)
            for index in range(bisect_right(starts, start) - 1, len(starts)):
                self.last = extents[index]
                stop = min(end, self.last.end)
                yield Extent(start, stop - start, self.last.zero, self.last.hole)
                start = stop
                if start >= end:
                    break

    def _stretch(self, number: int) -> tuple[list[int], list[Extent]]:
        found = self._stretches.get(number)
        if found is None:
            start = number * _STRETCH
            extents = list(self._image.extents(start, min(_STRETCH, self._end - start)))
            found = self._stretches[number] = [extent.start for extent in extents], extents
            if len(self._stretches) > _KEPT:
                self._stretches.popitem(last=False)
        else:
            self._stretches.move_to_end(number)
        return found
