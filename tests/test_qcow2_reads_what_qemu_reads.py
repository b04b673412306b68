# SPDX-License-Identifier: Apache-2.0
"""A disk read by diskcopy is the disk read by QEMU: whole, in scattered pieces, and in its extents."""

import random

import pytest
import qemu_images
from qemu_images import KiB, MiB, Shape


def agree(path: str, rng: random.Random) -> None:
    """Bytes equal, zero extents are zero, and at most what QEMU calls data is data."""
    want = qemu_images.content(path)
    with qemu_images.open_image(path) as image:
        assert image.size == len(want)
        assert image.read(0, len(want)) == want
        for _ in range(32):
            start = rng.randrange(len(want) + 1)
            length = rng.randrange(min(len(want) - start, 3 * MiB) + 1)
            assert image.read(start, length) == want[start : start + length]
        data = 0
        for extent in image.extents():
            assert extent.data or not any(want[extent.start : extent.end]), extent
            data += extent.length if extent.data else 0
        assert data <= sum(part["length"] for part in qemu_images.qemu_map(path) if not part["zero"])
        for _ in range(8):
            start = rng.randrange(len(want) + 1)
            length = rng.randrange(len(want) - start + 1)
            part = [extent for extent in image.extents(start, length) if extent.zero]
            assert not any(any(want[extent.start : extent.end]) for extent in part)


@pytest.mark.parametrize("seed", range(40))
def test_any_image(seed: int, tmp_path: object) -> None:
    rng = random.Random(seed)
    agree(qemu_images.make_chain(str(tmp_path), rng, rng.choice([0, 0, 0, 1, 1, 2, 3])), rng)


@pytest.mark.parametrize("bits", range(9, 22))
def test_each_cluster_size_in_both_versions(bits: int, tmp_path: object) -> None:
    rng = random.Random(bits)
    for version in (2, 3):
        wish = Shape(version=version, cluster_size=1 << bits, extended_l2=False, data_file=False)
        agree(qemu_images.make(str(tmp_path), f"v{version}", rng, wish), rng)


@pytest.mark.parametrize("cluster_size", [16 * KiB, 64 * KiB, 2 * MiB])
@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_subclusters_over_a_backing_image(cluster_size: int, compression: str, tmp_path: object) -> None:
    rng = random.Random(cluster_size)
    wish = Shape(
        version=3, cluster_size=cluster_size, extended_l2=True, compression=compression, data_file=False,
        operations=30,
    )  # fmt: skip
    agree(qemu_images.make_chain(str(tmp_path), rng, 2, wish), rng)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("extended", [False, True])
def test_data_in_another_file(raw: bool, extended: bool, tmp_path: object) -> None:
    rng = random.Random(raw * 2 + extended)
    wish = Shape(
        version=3, data_file=True, data_file_raw=raw, extended_l2=extended, cluster_size=64 * KiB,
        operations=20,
    )  # fmt: skip
    agree(qemu_images.make(str(tmp_path), "image", rng, wish), rng)


@pytest.mark.parametrize("size", [0, 512, 64 * KiB - 512, 64 * KiB, 64 * KiB + 512])
def test_small_disks(size: int, tmp_path: object) -> None:
    rng = random.Random(size)
    wish = Shape(cluster_size=64 * KiB, size=size, operations=4)
    agree(qemu_images.make(str(tmp_path), "image", rng, wish), rng)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 2000))
def test_very_many_images(seed: int, tmp_path: object) -> None:
    rng = random.Random(seed)
    agree(qemu_images.make_chain(str(tmp_path), rng, rng.choice([0, 0, 1, 2, 3])), rng)
