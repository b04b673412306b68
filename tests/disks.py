# SPDX-License-Identifier: Apache-2.0
"""Disks for tests: random sparse files, and disks drawn as pictures."""

from __future__ import annotations

import os
import random
from array import array
from pathlib import Path

from diskcopy.extents import Extent
from diskcopy.storage.memory import Memory

KiB = 1 << 10
MiB = 1 << 20


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


def sparse_file(path: Path, seed: int, size: int) -> bytes:
    """`write_sparse`, the same for the same seed."""
    return write_sparse(path, size, random.Random(seed))


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


def piece(start: int, end: int) -> array[int]:
    """For copy_pieces: [start, end) of the source, to the same place in the target."""
    return array("q", [start, end - start, start])
