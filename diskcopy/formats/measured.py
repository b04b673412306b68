# SPDX-License-Identifier: Apache-2.0
"""What a target will take."""

from __future__ import annotations

from typing import NamedTuple


class Measure(NamedTuple):
    """What a target will take, in bytes, without compression.

    required: an image file's length with the disk's data in it; for raw, the data themselves
    fully_allocated: the same once the guest has written every block
    """

    required: int
    fully_allocated: int
