# SPDX-License-Identifier: Apache-2.0
"""Writing qcow2 in tests: a disk of random pieces, and what QEMU says of the image."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from diskcopy.errors import Error
from diskcopy.formats.qcow2.writer import Qcow2Writer
from diskcopy.storage.file import NewFile

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

# What a piece of a disk may look like, from bytes that do not compress to bytes that do well.
_KINDS = ("random", "text", "repeated", "mixed")


def some_bytes(rng: random.Random, length: int) -> bytes:
    kind = rng.choice(_KINDS)
    if kind == "random":
        return rng.randbytes(length)
    if kind == "text":
        return bytes(rng.choices(b"abcdefgh  \n", k=length))
    if kind == "repeated":
        return bytes([rng.randrange(256)]) * length
    half = rng.randbytes(length // 2)
    return half + bytes(length - len(half))


def pieces(rng: random.Random, size: int, unit: int, count: int = 30) -> list[tuple[int, bytes]]:
    """Up to `count` pieces (offset, content) of a disk, ascending and apart, that begin and end at
    multiples of `unit` or at the disk's end."""
    found = []
    position, units = 0, -(-size // unit)
    while position < units and len(found) < count:
        position += rng.randrange(max(1, 2 * units // count))
        length = rng.randrange(1, 2 + min(units // count, MiB // unit))
        start, end = position * unit, min(size, (position + length) * unit)
        if start >= size:
            break
        step = max(unit, 64 * KiB)
        content = b"".join(some_bytes(rng, min(step, end - at)) for at in range(start, end, step))
        found.append((start, content))
        position += length
    return found


def raw_disk(path: Path, size: int, written: list[tuple[int, bytes]]) -> Path:
    """The same disk as a raw file, whole sectors long as QEMU wants it."""
    with open(path, "wb") as file:
        file.truncate(-(-size // 512) * 512)
        for offset, content in written:
            file.seek(offset)
            file.write(content)
    return path


def finish(writer: Qcow2Writer) -> None:
    writer.flush()
    writer.commit()
    writer.close()


def new_image(path: Path, size: int | None, **options: object) -> Qcow2Writer:
    """A writer of a new file, which is closed where the writer refuses."""
    storage = NewFile(str(path), durable=False)
    try:
        return Qcow2Writer(storage, size, **options)  # type: ignore[arg-type]
    except Error:
        storage.close()
        raise


def qemu_accepts(image: Path | str, raw: Path | str) -> None:
    """QEMU finds no error and no leak in the image, and the same disk in it as in the raw file."""
    for command in (
        ["qemu-img", "check", "-f", "qcow2", str(image)],
        ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(image), str(raw)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
