# SPDX-License-Identifier: Apache-2.0
"""The extents of a qcow2 disk: from its tables and its file's holes, whatever its size."""

import time
from pathlib import Path

import qemu_images
from qemu_images import KiB, MiB

from diskcopy.extents import Extent

TiB = 1 << 40


def extents(path: Path) -> list[Extent]:
    with qemu_images.open_image(str(path)) as image:
        return list(image.extents())


def create(path: Path, size: str, options: str = "", *arguments: str) -> None:
    qemu_images.run(
        "qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), *arguments,
        str(path), size,
    )  # fmt: skip


def change(path: Path, *commands: str) -> None:
    qemu_images.run("qemu-io", "-f", "qcow2", *(p for c in commands for p in ("-c", c)), str(path))


def test_an_empty_disk_of_8_tib_is_one_hole_at_once(tmp_path: Path) -> None:
    create(tmp_path / "a", "8T")
    start = time.perf_counter()
    assert extents(tmp_path / "a") == [Extent(0, 8 * TiB, True, True)]
    assert time.perf_counter() - start < 0.1


def test_data_at_the_end_of_a_huge_disk(tmp_path: Path) -> None:
    create(tmp_path / "a", "8T")
    change(tmp_path / "a", f"write -P 1 {8 * TiB - 64 * KiB} 64k", f"write -P 1 {4 * TiB} 128k")
    assert extents(tmp_path / "a") == [
        Extent(0, 4 * TiB, True, True),
        Extent(4 * TiB, 128 * KiB, False, False),
        Extent(4 * TiB + 128 * KiB, 4 * TiB - 192 * KiB, True, True),
        Extent(8 * TiB - 64 * KiB, 64 * KiB, False, False),
    ]


def test_preallocated_clusters_that_nobody_wrote_are_zero(tmp_path: Path) -> None:
    create(tmp_path / "a", "64M", "preallocation=metadata")
    change(tmp_path / "a", "write -P 7 1M 1M")
    assert extents(tmp_path / "a") == [
        Extent(0, MiB, True, True),
        Extent(MiB, MiB, False, False),
        Extent(2 * MiB, 62 * MiB, True, True),
    ]


def test_zero_clusters_are_holes_only_without_a_place_in_the_file(tmp_path: Path) -> None:
    create(tmp_path / "base", "1M")
    change(tmp_path / "base", "write -P 1 0 1M")
    create(tmp_path / "a", "1M", "", "-b", "base", "-F", "qcow2")
    change(tmp_path / "a", "write -P 2 0 128k", "write -z 0 128k", "write -z -u 256k 64k")
    assert extents(tmp_path / "a") == [
        Extent(0, 128 * KiB, True, False),
        Extent(128 * KiB, 128 * KiB, False, False),
        Extent(256 * KiB, 64 * KiB, True, True),
        Extent(320 * KiB, 704 * KiB, False, False),
    ]


def test_unallocated_ranges_are_what_the_backing_image_says(tmp_path: Path) -> None:
    with open(tmp_path / "base", "wb") as file:
        file.truncate(2 * MiB)
        file.seek(MiB)
        file.write(b"x" * 64 * KiB)
    create(tmp_path / "a", "4M", "", "-b", "base", "-F", "raw")
    assert extents(tmp_path / "a") == [
        Extent(0, MiB, True, True),
        Extent(MiB, 64 * KiB, False, False),
        Extent(MiB + 64 * KiB, 3 * MiB - 64 * KiB, True, True),
    ]


def test_subclusters_have_extents_of_their_own(tmp_path: Path) -> None:
    create(tmp_path / "a", "1M", "extended_l2=on,cluster_size=128k")
    change(tmp_path / "a", "write -P 1 4k 4k", "write -z -u 12k 4k", "write -P 1 144k 8k")
    found = extents(tmp_path / "a")
    assert [(e.start, e.length) for e in found if e.data] == [(4 * KiB, 4 * KiB), (144 * KiB, 8 * KiB)]
