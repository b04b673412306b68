# SPDX-License-Identifier: Apache-2.0
"""Random disk images made by qemu-img and qemu-io, and what QEMU says is in them."""

from __future__ import annotations

import json
import os
import random
import subprocess
from typing import Any, NamedTuple

from diskcopy.formats.qcow2.reader import Qcow2
from diskcopy.formats.raw import Raw
from diskcopy.image import Image
from diskcopy.storage.file import File

KiB, MiB = 1 << 10, 1 << 20


class Shape(NamedTuple):
    """What kind of qcow2 image; each None is left to the seed."""

    version: int | None = None
    cluster_size: int | None = None
    extended_l2: bool | None = None
    refcount_bits: int | None = None
    compression: str | None = None
    preallocation: str | None = None
    data_file: bool | None = None
    data_file_raw: bool | None = None
    size: int | None = None
    snapshots: int | None = None
    operations: int | None = None
    compress: bool = True


ANY = Shape()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def content(path: str, image_format: str = "qcow2") -> bytes:
    """The whole disk, as qemu-img reads it."""
    target = path + ".converted"
    run("qemu-img", "convert", "-f", image_format, "-O", "raw", path, target)
    with open(target, "rb") as file:
        data = file.read()
    os.unlink(target)
    return data


def qemu_map(path: str, image_format: str = "qcow2") -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(
        run("qemu-img", "map", "-f", image_format, "--output=json", path)
    )
    return result


def open_image(path: str, image_format: str | None = "qcow2") -> Image:
    """The stack of an image file, references followed relative to it."""

    def opener(reference: str, reference_format: str | None) -> Image:
        return open_image(os.path.join(os.path.dirname(path), reference), reference_format)

    storage = File(path)
    return Qcow2(storage, opener) if image_format == "qcow2" else Raw(storage)


def random_shape(rng: random.Random, wish: Shape = ANY) -> Shape:
    """`wish` with everything it leaves open chosen, so that QEMU accepts it."""
    version = wish.version or (2 if rng.random() < 0.15 and not any(wish[2:8]) else 3)
    extended = wish.extended_l2
    if extended is None:
        smallest = wish.cluster_size is None or wish.cluster_size >= 16 * KiB
        extended = version == 3 and smallest and rng.random() < 0.3
    cluster_size = wish.cluster_size or 1 << rng.randrange(14 if extended else 9, 22)
    refcount_bits = wish.refcount_bits or (1 << rng.randrange(7) if version == 3 else 16)
    compression = wish.compression or (rng.choice(["zlib", "zstd"]) if version == 3 else "zlib")
    data_file = wish.data_file
    if data_file is None:
        data_file = version == 3 and rng.random() < 0.1
    most = min(16 * MiB, cluster_size * 600)
    size = wish.size if wish.size is not None else 512 * rng.randrange(1, most // 512)
    # Snapshots and compressed clusters that share a host cluster add up in its count.
    snapshots = wish.snapshots
    if snapshots is None:
        snapshots = 0 if data_file or refcount_bits < 8 else rng.choice([0, 0, 0, 1, 2])
    return Shape(
        version=version,
        cluster_size=cluster_size,
        extended_l2=extended,
        refcount_bits=refcount_bits,
        compression=compression,
        preallocation=wish.preallocation or rng.choice(["off", "off", "off", "metadata", "falloc"]),
        data_file=data_file,
        data_file_raw=bool(wish.data_file_raw),
        size=size,
        snapshots=snapshots,
        operations=wish.operations or rng.randrange(0, 24),
        compress=wish.compress,
    )


def make(
    folder: str, name: str, rng: random.Random, wish: Shape = ANY, backing: tuple[str, str] | None = None
) -> str:
    """A qcow2 image of random content; `backing` is (file name, format). Its path."""
    shape = random_shape(rng, wish)
    path = os.path.join(folder, name)
    options = [f"compat={'0.10' if shape.version == 2 else '1.1'}", f"cluster_size={shape.cluster_size}"]
    if shape.version == 3:
        options += [
            f"extended_l2={'on' if shape.extended_l2 else 'off'}",
            f"refcount_bits={shape.refcount_bits}",
            f"compression_type={shape.compression}",
            f"lazy_refcounts={'on' if shape.refcount_bits == 16 and rng.random() < 0.2 else 'off'}",
        ]
    if backing is None:
        options.append(f"preallocation={shape.preallocation}")
    if shape.data_file:
        options += [f"data_file={path}.data", f"data_file_raw={'on' if shape.data_file_raw else 'off'}"]
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(options)]
    if backing is not None:
        command += ["-b", backing[0], "-F", backing[1]]
    run(*command, path, str(shape.size))
    assert shape.snapshots is not None
    for number in range(shape.snapshots + 1):
        if number:
            run("qemu-img", "snapshot", "-c", f"snapshot {number}", path)
        free = not shape.data_file and (backing is not None or shape.preallocation == "off")
        change(path, rng, shape, compress=shape.compress and free and number == 0)
    return path


def change(path: str, rng: random.Random, shape: Shape, *, compress: bool = False) -> None:
    """Compressed writes, then random writes, zeroes and discards, in one qemu-io."""
    assert shape.size is not None
    assert shape.cluster_size is not None
    assert shape.operations is not None
    if not shape.size or not shape.operations:
        return
    pattern = path + ".pattern"
    with open(pattern, "wb") as file:
        for _ in range(8):
            file.write(rng.randbytes(4096) + rng.randbytes(64) * 64)
    commands = _compressed_writes(rng, shape, pattern) if compress else []
    most = max(512, min(shape.size, 12 * shape.cluster_size, MiB))
    for _ in range(shape.operations):
        start = 512 * rng.randrange(shape.size // 512)
        length = min(512 * rng.randrange(1, most // 512 + 1), shape.size - start)
        writes = (f"write -P {rng.randrange(256)}", f"write -s {pattern}")
        commands.append(f"{rng.choice([*writes, 'write -z', 'write -z -u', 'discard'])} {start} {length}")
    arguments = [part for command in commands for part in ("-c", command)]
    output = run("qemu-io", "-f", "qcow2", *arguments, path)
    assert "failed" not in output, (commands, output)
    os.unlink(pattern)


def _compressed_writes(rng: random.Random, shape: Shape, pattern: str) -> list[str]:
    """To clusters that have nothing yet: QEMU refuses others, and its image may suffer from that."""
    assert shape.size is not None
    assert shape.cluster_size is not None
    clusters = -(-shape.size // shape.cluster_size)
    chosen = sorted(
        rng.sample(range(clusters), min(rng.randrange(80), clusters, 1 + (8 * MiB // shape.cluster_size)))
    )
    if rng.random() < 0.3:
        rng.shuffle(chosen)
    return [
        f"write -c {rng.choice([f'-P {rng.randrange(256)}', f'-s {pattern}'])} "
        f"{number * shape.cluster_size} {min(shape.cluster_size, shape.size - number * shape.cluster_size)}"
        for number in chosen
    ]


def make_raw(folder: str, name: str, rng: random.Random, size: int) -> str:
    """A sparse raw file of random content. Its path."""
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.truncate(size)
        for _ in range(8 if size else 0):
            file.seek(rng.randrange(size))
            file.write(rng.randbytes(min(rng.randrange(1, 200_000), size - file.tell())))
    return path


def make_chain(folder: str, rng: random.Random, length: int, wish: Shape = ANY) -> str:
    """An overlay over `length` backing images of random kinds and sizes. Its path."""
    below: tuple[str, str] | None = None
    path = ""
    for number in range(length + 1):
        name = f"layer{number}"
        if number == 0 and length and rng.random() < 0.5:
            path = make_raw(folder, name, rng, 512 * rng.randrange(1, 8 * MiB // 512))
            below = name, "raw"
        else:
            path = make(folder, name, rng, wish, below)
            below = name, "qcow2"
    return path
