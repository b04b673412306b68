# SPDX-License-Identifier: Apache-2.0
"""How large a block device is, where the server says 0: found by what can be read of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

# The smallest block that a device is made of; offsets are 63 bits.
_SECTOR = 512
_FARTHEST = (1 << 63) - _SECTOR
# Questions on their way at once: six bits of the answer in a round trip.
_AT_ONCE = 64


def size(reaches: Callable[[list[int]], list[bool]]) -> int | None:
    """The size in bytes of a device, from a few round trips; None where the answers contradict each other.

    reaches: which of some ascending offsets have a byte that can be read
    """
    # Below `low` all can be read, and nothing from `high` on; both are multiples of a sector.
    low, high = 0, _FARTHEST
    offsets = [0, *(_SECTOR << power for power in range(54)), _FARTHEST]
    while True:
        found = reaches(offsets)
        if any(after and not before for before, after in pairwise(found)):
            return None
        for offset, there in zip(offsets, found, strict=True):
            if there:
                low = max(low, offset + _SECTOR)
            else:
                high = min(high, offset)
        if low >= high:
            return low if low == high else None
        step = max((high - low) // _SECTOR // _AT_ONCE, 1) * _SECTOR
        offsets = list(range(low, high, step))
