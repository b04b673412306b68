# SPDX-License-Identifier: Apache-2.0
"""Random sparse files, whose content tests know without reading them."""

from __future__ import annotations

import random
from pathlib import Path


def write_sparse(path: Path, size: int, rng: random.Random, unit: int = 4096) -> bytes:
    """A file of holes, data, and allocated zeroes that begin and end anywhere; returns its content."""
    content = bytearray(size)
    with open(path, "wb") as file:
        file.truncate(size)
        position = 0
        while position < size:
            step = rng.choice([1, unit, unit, 3 * unit, 17 * unit, rng.randrange(1, 6 * unit)])
            piece = min(step, size - position)
            kind = rng.choice(["hole", "data", "zero", "edge"])
            if kind != "hole":
                block = rng.randbytes(piece) if kind == "data" else bytes(piece)
                if kind == "edge":  # one byte that must not be lost
                    block = block[:-1] + b"\1"
                file.seek(position)
                file.write(block)
                content[position : position + piece] = block
            position += piece
    return bytes(content)
