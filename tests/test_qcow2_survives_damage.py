# SPDX-License-Identifier: Apache-2.0
"""A damaged image ends in an Error or in the bytes QEMU reads: no other exception, no flood of memory."""

import itertools
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import qemu_images
from qemu_images import KiB, Shape

from diskcopy.errors import Error
from diskcopy.formats.qcow2.header import OFFSET_MASK, Header
from diskcopy.formats.qcow2.reader import Qcow2
from diskcopy.storage.memory import Memory

PLAIN = Shape(version=3, extended_l2=False, data_file=False, preallocation="off", operations=8)
SHAPES = {
    "512": PLAIN._replace(version=2, cluster_size=512, size=200 * KiB, snapshots=1),
    "4k": PLAIN._replace(cluster_size=4 * KiB, size=300 * KiB, compression="zlib"),
    "16k": PLAIN._replace(cluster_size=16 * KiB, size=600 * KiB, compression="zstd", extended_l2=True),
    "64k": PLAIN._replace(cluster_size=64 * KiB, size=1000 * KiB, refcount_bits=16, snapshots=2),
}


class Victim(NamedTuple):
    """An image, its disk, and the offsets of its metadata and compressed bytes."""

    content: bytes
    disk: bytes
    weak: list[range]


@pytest.fixture(scope="module", params=SHAPES)
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    folder = tmp_path_factory.mktemp("victim")
    rng = random.Random(request.param)
    path = qemu_images.make(str(folder), "image", rng, SHAPES[request.param])
    content = Path(path).read_bytes()
    header = Header.parse(Memory(content))
    cluster = header.cluster_size
    l1 = range(header.l1_offset, header.l1_offset + 8 * header.l1_entries)
    weak = [range(112), l1, range(header.refcount_table_offset, header.refcount_table_offset + cluster)]
    weak.append(range(header.snapshots_offset, header.snapshots_offset + 200 * bool(header.snapshots)))
    for at in l1[::8]:
        table = int.from_bytes(content[at : at + 8], "big") & OFFSET_MASK
        if table:
            # Where there are entries: the rest of a large table is never looked at.
            used = min(cluster, -(-header.size // cluster) * (16 if header.extended_l2 else 8))
            weak.append(range(table, table + used))
            weak += _compressed(content, header, range(table, table + used))
    return Victim(content, qemu_images.content(path), [part for part in weak if part])


def _compressed(content: bytes, header: Header, table: range) -> Iterator[range]:
    for at in table[:: 16 if header.extended_l2 else 8]:
        entry = int.from_bytes(content[at : at + 8], "big")
        if entry >> 62 & 1:
            host = entry & ((1 << (70 - header.cluster_bits)) - 1)
            yield range(host, min(host + 40, len(content)))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """600 MiB of address space more than there is now, whatever an image claims."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (600 << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def one_line(error: Error) -> None:
    assert "\n" not in str(error)


def read_all(content: bytes) -> bytes | None:
    """The disk as diskcopy reads it; None where that ended in an Error."""
    try:
        image = Qcow2(Memory(content, name="damaged"))
        extents = list(itertools.islice(image.extents(), 5000))
        disk = image.read(0, min(image.size, 4 << 20))
        if image.size <= len(disk):
            for extent in extents:
                assert extent.data or not any(disk[extent.start : extent.end])
    except Error as error:
        one_line(error)
        return None
    return bytes(disk)


def described(content: bytes) -> None:
    try:
        Qcow2(Memory(content, name="damaged")).describe()
    except Error as error:
        one_line(error)


def flipped(victim: Victim, rng: random.Random) -> bytes:
    damaged = bytearray(victim.content)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        at = rng.choice(rng.choice(victim.weak))
        if at < len(damaged):
            damaged[at] ^= rng.choice([1 << rng.randrange(8), 0xFF])
    return bytes(damaged)


@pytest.mark.usefixtures("little_memory")
def test_flipped_bits(victim: Victim) -> None:
    rng = random.Random(len(victim.content))
    refused = 0
    for _ in range(800):
        damaged = flipped(victim, rng)
        refused += read_all(damaged) is None
        described(damaged)
    assert 80 < refused < 800


@pytest.mark.usefixtures("little_memory")
def test_truncation(victim: Victim) -> None:
    """What is missing is noticed, but in the last cluster, where QEMU reads zeroes as well."""
    rng = random.Random(1)
    cluster = Header.parse(Memory(victim.content)).cluster_size
    for _ in range(200):
        end = rng.randrange(len(victim.content))
        disk = read_all(victim.content[:end])
        if disk is not None and disk != victim.disk:
            differing = [at for at, byte in enumerate(disk) if byte != victim.disk[at]]
            assert differing[0] // cluster == differing[-1] // cluster
            assert not any(disk[at] for at in differing)


def test_what_qemu_still_reads_is_read_the_same(victim: Victim, tmp_path: Path) -> None:
    rng = random.Random(2)
    path, target = str(tmp_path / "image"), str(tmp_path / "disk")
    for _ in range(60):
        damaged = flipped(victim, rng)
        ours = read_all(damaged)
        if ours is None or len(ours) >= 4 << 20:
            continue
        Path(path).write_bytes(damaged)
        done = subprocess.run(
            ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, target],
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            # QEMU knows whole sectors only.
            qemus = Path(target).read_bytes()
            assert len(ours) - len(qemus) in range(512)
            assert ours[: len(qemus)] == qemus
            os.unlink(target)
        else:
            # It looks at more than a reader needs: the disk itself has to be the old one.
            assert ours == victim.disk, done.stderr
