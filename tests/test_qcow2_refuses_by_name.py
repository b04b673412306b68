# SPDX-License-Identifier: Apache-2.0
"""What cannot be read is refused by its name, with the offset and the way out; `describe` still works."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import qemu_images
from qemu_images import MiB

from diskcopy.errors import Corrupt, Error, Unsupported, WrongFormat
from diskcopy.formats.qcow2.reader import Qcow2
from diskcopy.image import Image
from diskcopy.storage.memory import Memory


def nowhere(reference: str, image_format: str | None) -> Image:
    raise AssertionError("no reference is followed before the image is known to be readable")


@pytest.fixture
def image(tmp_path: Path) -> bytearray:
    path = str(tmp_path / "image")
    qemu_images.run("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
    qemu_images.run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", path)
    return bytearray(Path(path).read_bytes())


def put(offset: int, form: str, value: int) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into(form, content, offset, value)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (put(32, ">I", 1), Unsupported, r"encrypted \(AES\).* at offset 32; .*qemu-img"),
        (put(32, ">I", 2), Unsupported, r"encrypted \(LUKS\).* at offset 32; .*qemu-img"),
        (put(79, "B", 2), Corrupt, r"marked corrupt.* at offset 72; .*qemu-img check -r all"),
    ],
)
def test_known_but_not_readable(
    image: bytearray, change: Callable[[bytearray], None], kind: type[Error], words: str
) -> None:
    change(image)
    with pytest.raises(kind, match=words):
        Qcow2(Memory(image), nowhere)
    described = Qcow2(Memory(image))
    assert described.describe()["size"] == 4 * MiB
    with pytest.raises(kind, match=words):
        described.read(0, 512)
    with pytest.raises(kind, match=words):
        list(described.extents())


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (put(0, ">I", 0), WrongFormat, "not a qcow2 image"),
        (put(4, ">I", 4), Unsupported, "version 4 at offset 4"),
        (put(79, "B", 32), Unsupported, "'incompatible feature bit 5' at offset 72"),
        (put(79, "B", 8), Corrupt, "compression type.*contradict.* at offset 104"),
        (put(104, "B", 7), Unsupported, "compression type 7 at offset 104"),
        (put(20, ">I", 8), Corrupt, "cluster_bits 8.* at offset 20"),
        (put(20, ">I", 22), Corrupt, "cluster_bits 22.* at offset 20"),
        (put(24, ">Q", 1 << 63), Corrupt, "disk size of 9223372036854775808 bytes at offset 24"),
        (put(24, ">Q", (1 << 63) - 1), Corrupt, "L1 table of 1 entries.* at offset 36"),
        (put(36, ">I", 0xFFFFFFFF), Corrupt, "L1 table of 4294967295 entries at offset 36"),
        (put(40, ">Q", 512), Corrupt, "L1 table is not aligned.* at offset 40"),
        (put(40, ">Q", 1 << 62), Corrupt, "L1 table.*beyond the file's end.* at offset 40"),
        (put(48, ">Q", 1 << 62), Corrupt, "refcount table.*beyond the file's end.* at offset 48"),
        (put(56, ">I", 0xFFFFFFFF), Corrupt, "refcount table of 4294967295 clusters at offset 56"),
        (put(60, ">I", 0xFFFFFFFF), Corrupt, "4294967295 snapshots.* at offset 60"),
        (put(96, ">I", 7), Corrupt, "refcount_order of 7.* at offset 96"),
        (put(100, ">I", 0xFFFFFFF8), Corrupt, "header_length of 4294967288 at offset 100"),
        (put(8, ">Q", 1 << 40), Corrupt, "backing file's name lies outside.* at offset 8"),
        (put(116, ">I", 0xFFFFFFFF), Corrupt, "header extension of 4294967295 bytes.* at offset 112"),
    ],
)
def test_headers_that_break_the_format(
    image: bytearray, change: Callable[[bytearray], None], kind: type[Error], words: str
) -> None:
    change(image)
    with pytest.raises(kind, match=words):
        Qcow2(Memory(image))


def test_an_unknown_feature_is_called_what_the_image_calls_it(image: bytearray) -> None:
    at = image.index(b"dirty bit")
    image[at - 1] = 6
    image[at : at + 9] = b"time warp"
    image[79] = 64
    with pytest.raises(Unsupported, match="needs 'time warp' at offset 72"):
        Qcow2(Memory(image))


def test_the_dirty_bit_does_not_matter_for_reading(image: bytearray) -> None:
    image[79] = 1
    with Qcow2(Memory(image)) as disk:
        assert disk.describe()["dirty"]
        assert disk.read(0, 4) == b"\1\1\1\1"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (1 << 55, "beyond the end of memory"),
        (0x50200, "start of a cluster at offset 262144"),
        (0x50000 | 2, "reserved bits set at offset 262144"),
        (0x50000 | 1 << 60, "reserved bits set at offset 262144"),
        (1 << 62 | 1 << 50, "beyond the end of the file"),
    ],
)
def test_l2_entries_that_break_the_format(image: bytearray, entry: int, words: str) -> None:
    assert struct.unpack_from(">Q", image, 0x40000)[0] == 1 << 63 | 0x50000, "where QEMU puts the L2 table"
    struct.pack_into(">Q", image, 0x40000, entry)
    with pytest.raises(Corrupt, match=f"disk's byte 0 .*{words}"):
        Qcow2(Memory(image)).read(0, 512)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (1 << 55, "points beyond the end"),
        (0x40200, "start of a cluster"),
        (0x40000 | 1, "reserved bits"),
        (0x40000 | 1 << 57, "reserved bits"),
    ],
)
def test_l1_entries_that_break_the_format(image: bytearray, entry: int, words: str) -> None:
    struct.pack_into(">Q", image, 0x30000, entry)
    disk = Qcow2(Memory(image))
    with pytest.raises(Corrupt, match=f"L1 entry 0 .*{words}.* at offset 196608"):
        disk.read(0, 512)
    with pytest.raises(Corrupt, match=f"L1 entry 0 .*{words}.* at offset 196608"):
        list(disk.extents())


def test_the_last_cluster_of_a_file_may_end_early_and_no_other(image: bytearray) -> None:
    end = 0x50000 + 1000
    del image[end:]
    assert Qcow2(Memory(image)).read(0, 65536) == b"\1" * 1000 + bytes(64536)
    del image[0x50000:]
    with pytest.raises(Corrupt, match="beyond the end of memory"):
        Qcow2(Memory(image)).read(0, 1)


def test_a_small_file_cannot_claim_more_tables_than_it_holds(image: bytearray) -> None:
    struct.pack_into(">QII", image, 24, 512 << 29, 0, 512)
    struct.pack_into(">512Q", image, 0x30000, *[0x40000] * 512)
    with pytest.raises(Corrupt, match="more L2 tables than the file can hold"):
        list(Qcow2(Memory(image)).extents())
