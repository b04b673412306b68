# SPDX-License-Identifier: Apache-2.0
"""Where an image says a piece lies, its descriptor holds just the bytes that reading gives."""

from __future__ import annotations

import os
import random
from array import array
from pathlib import Path

import pytest
from qemu_images import KiB, MiB, Shape, content, make_chain, make_raw, open_image, run

from diskcopy import _fd, _zero
from diskcopy.engine.compare import compare
from diskcopy.engine.pieces import parts
from diskcopy.errors import Error
from diskcopy.image import Image
from diskcopy.layers.fail import Fail
from diskcopy.storage.file import File


def lying(image: Image, start: int, end: int) -> list[tuple[int, int]]:
    """The pieces of a range, each checked against a read."""
    found = []
    position = start
    for piece in image.locate(start, end - start):
        assert position <= piece.start < piece.start + piece.length <= end
        fd = piece.storage.fileno()
        assert fd is not None
        there = os.pread(fd, piece.length, piece.offset)
        assert there == image.read(piece.start, piece.length)
        position = piece.start + piece.length
        found.append((piece.start, position))
    return found


@pytest.mark.parametrize("seed", range(10))
def test_pieces_of_any_chain_read_as_the_disk(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = make_chain(str(tmp_path), rng, rng.choice([1, 1, 2, 3]), Shape(size=512 * rng.randrange(1, 6000)))
    with open_image(path) as image:
        size = image.size or 0
        disk = content(path)[:size].ljust(size, b"\0")
        whole = lying(image, 0, size)
        for _ in range(5):
            start, end = sorted(rng.choice([0, size, rng.randrange(size + 1)]) for _ in range(2))
            # A range has the pieces of the whole, cut to it.
            asked = bytearray(size)
            for low, high in lying(image, start, end):
                asked[low:high] = b"x" * (high - low)
            expected = bytearray(size)
            for low, high in whole:
                low, high = max(low, start), min(high, end)
                if low < high:
                    expected[low:high] = b"x" * (high - low)
            assert asked == expected
        # What lies nowhere is zero by the image's own word, or has to be decompressed.
        if not any(extent.data for extent in image.extents()):
            assert not disk.strip(b"\0")


@pytest.mark.parametrize("seed", range(10))
def test_parts_cover_the_range_and_keep_to_units(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    size = 512 * rng.randrange(1, 4000)
    left = open_image(make_chain(str(tmp_path), rng, rng.choice([1, 2]), Shape(size=size)))
    right = File(make_raw(str(tmp_path), "beside.raw", rng, size))
    with left, right:
        size = min(left.size or 0, right.size or 0)
        for images in ([left], [right], [left, right], [right, left]):
            unit = rng.choice([1, 512, 4096, 64 * KiB])
            start = min(size, rng.randrange(0, size + 1) // unit * unit)
            position = start
            for part in parts(images, start, size, unit):
                assert part.start == position < part.end
                assert part.start % unit == 0
                assert part.end % unit == 0 or part.end == size
                width = 2 + len(part.storages)
                rows = [part.pieces[at : at + width] for at in range(0, len(part.pieces), width)]
                for place, length, *offsets in rows:
                    assert place == position
                    for image, storage, offset in zip(images, part.storages, offsets, strict=True):
                        fd = storage.fileno()
                        assert fd is not None
                        assert os.pread(fd, length, offset) == image.read(place, length)
                    position = place + length
                if not rows:
                    assert part.storages == ()
                    position = part.end
                assert position == part.end
            assert position == size


def test_a_layer_that_does_not_pass_pieces_on_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(9000))
    with File(str(tmp_path / "a")) as file:
        assert [piece.length for piece in file.locate(100, 200)] == [200]
        assert [*Fail(file, "read").locate(100, 200)] == []


def test_a_cluster_beyond_the_end_is_no_piece(tmp_path: Path) -> None:
    """Reading says what is wrong with it; a kernel would only find a short file."""
    path = str(tmp_path / "cut.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    run("qemu-io", "-c", "write -P 1 0 1M", path)
    os.truncate(path, os.path.getsize(path) - 256 * KiB)
    with open_image(path) as image:
        pieces = [*image.locate(0, MiB)]
        assert sum(piece.length for piece in pieces) == MiB - 256 * KiB
        with pytest.raises(Error, match="beyond the end"):
            image.read(0, MiB)


# --- the kernels -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_runs_read_are_the_runs_scanned(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    size = rng.choice([0, 1, 4095, 4096, 300 * KiB, rng.randrange(MiB)])
    content = bytearray(size)
    for _ in range(rng.randrange(8)):
        at = rng.randrange(size + 1)
        data = rng.randbytes(min(size - at, rng.choice([1, 4096, 70_000])))
        content[at : at + len(data)] = data
    path = tmp_path / "file"
    path.write_bytes(content)
    offset = rng.randrange(size + 1)
    unit = rng.choice([1, 512, 4096, 1000, 300_000])
    buffer = bytearray(b"\xff" * (size - offset))
    fd = os.open(path, os.O_RDONLY)
    try:
        got, runs = _fd.read_runs(fd, buffer, offset, unit)
        assert got == size - offset
        assert buffer == content[offset:]
        assert runs == _zero.data_runs(buffer, unit)
        # A file that ends early: its end is told, and what came is looked at.
        longer = bytearray(size - offset + 10)
        got, runs = _fd.read_runs(fd, longer, offset, unit)
        assert got == size - offset
        assert runs == _zero.data_runs(buffer, unit)
    finally:
        os.close(fd)


@pytest.mark.parametrize("seed", range(40))
def test_same_pieces_stop_before_the_first_difference(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    a = rng.randbytes(200_000)
    pieces = array("q")
    b = bytearray()
    for _ in range(6):  # the pieces of a, shuffled in b
        at, length = rng.randrange(150_000), rng.choice([1, 4095, 4096, 30_000])
        pieces.extend([0, length, at, len(b)])
        b += a[at : at + length]
    total, cut = len(b), rng.randrange(len(b))
    differs = rng.random() < 0.8
    if differs:
        b[cut] ^= 1
    fds = []
    for name, data in (("a", a), ("b", b)):
        (tmp_path / name).write_bytes(data)
        fds.append(os.open(tmp_path / name, os.O_RDONLY))
    try:
        same = _fd.same_pieces(*fds, pieces, bytearray(rng.choice([2, 8192, 50_000])))
        if differs:
            assert cut - 4096 < same <= cut
        else:
            assert same == total
        # What cannot be read is not the same either.
        os.truncate(tmp_path / "b", cut)
        assert _fd.same_pieces(*fds, pieces, bytearray(8192)) <= cut
    finally:
        for fd in fds:
            os.close(fd)


def test_kernels_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="three numbers"):
        _fd.copy_pieces(0, 1, array("q", [0, 1]), bytearray(4096), 4096, True, True)
    with pytest.raises(ValueError, match="four numbers"):
        _fd.same_pieces(0, 1, array("q", [0, 1, 2]), bytearray(4096))
    with pytest.raises(ValueError, match="one byte"):
        _fd.read_runs(0, bytearray(1), 0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_comparing_finds_the_byte_wherever_it_lies(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    compressed = Shape(compression=rng.choice(["zlib", "zstd"]), size=512 * rng.randrange(2000, 40_000))
    path = make_chain(str(tmp_path), rng, rng.choice([1, 2]), compressed)
    raw = str(tmp_path / "same.raw")
    run("qemu-img", "convert", "-O", "raw", path, raw)
    with open_image(path) as image, File(raw) as same:
        assert compare(image, same).same
        size = min(image.size or 0, same.size or 0)
    at = rng.randrange(size)
    with open(raw, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))
    with open_image(path) as image, File(raw) as other:
        assert compare(image, other).offset == at
        assert compare(other, image).offset == at
