# SPDX-License-Identifier: Apache-2.0
"""Disks for tests: random sparse files, and disks drawn as pictures."""

from __future__ import annotations

import os
import random
from pathlib import Path

from diskcopy.extents import Extent
from diskcopy.storage.memory import Memory

KiB = 1 << 10
MiB = 1 << 20


def sparse_file(path: Path, seed: int, size: int, pieces: int = 40) -> bytes:
    """Make a file of holes, data and allocated zeroes, some of it unaligned; its content."""
    rng = random.Random(seed)
    content = bytearray(size)
    with open(path, "wb") as file:
        file.truncate(size)
        for _ in range(pieces if size else 0):
            start = rng.randrange(size)
            if rng.random() < 0.8:
                start -= start % (4 * KiB)
            length = min(rng.choice([1, 512, 4096, 12 * KiB, 64 * KiB, 300 * KiB]), size - start)
            piece = bytes(length) if rng.random() < 0.3 else rng.randbytes(length)
            file.seek(start)
            file.write(piece)
            content[start : start + length] = piece
    return bytes(content)


def picture(drawing: str, unit: int = 64 * KiB) -> Memory:
    """A disk in memory, a letter for each `unit` bytes: "AB-0" is two units of data, a hole,
    and a range that its image says is zero; "z" is zero and not known to be."""
    content = bytearray()
    facts = []
    for position, letter in enumerate(drawing):
        zero = letter in "-0"
        content += bytes(unit) if zero or letter == "z" else letter.encode() * unit
        facts.append(Extent(position * unit, unit, zero, letter == "-"))
    disk = Memory(content, name=drawing, facts=facts)
    disk.can -= {"write"}
    return disk


def allocated(path: Path) -> int:
    """Bytes that a file takes on its filesystem."""
    return os.stat(path).st_blocks * 512
