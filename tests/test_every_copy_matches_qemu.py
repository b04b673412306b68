# SPDX-License-Identifier: Apache-2.0
"""Whatever the source and whatever the target: QEMU reads from the copy what it reads from the source."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, ENVIRONMENT
from hypothesis import given, settings
from hypothesis import strategies as st
from qemu_images import ANY, KiB, MiB, Shape, content, make_chain, make_raw, run

import diskcopy


def random_source(folder: str, rng: random.Random) -> tuple[str, str, bytes]:
    """A raw file of any size, or an overlay over up to three images: its path, format and disk."""
    if rng.random() < 0.25:
        size = rng.choice([0, 1, 511, 513, rng.randrange(1, 4096), rng.randrange(1, 20 * MiB), 16 * MiB])
        path = make_raw(folder, "source", rng, size)
        with open(path, "rb") as file:
            return path, "raw", file.read()
    wish = Shape(size=0) if rng.random() < 0.05 else ANY
    path = make_chain(folder, rng, rng.choice([0, 0, 1, 1, 2, 3]), wish)
    return path, "qcow2", content(path)


def random_options(rng: random.Random) -> dict[str, Any]:
    """Keywords of `diskcopy.copy` for some target, so that they go together."""
    options: dict[str, Any] = {
        "verify": rng.random() < 0.5,
        "detect_zeroes": rng.random() < 0.7,
        "workers": rng.randrange(1, 5),
        "flush": rng.random() < 0.2,
        "target_format": rng.choice(["raw", "qcow2", "qcow2", "qcow2"]),
    }
    if options["target_format"] == "raw":
        options["preallocate"] = rng.choice(["off", "off", "full"])
    else:
        options["cluster_size"] = 1 << rng.randrange(9, 22)
        options["compress"] = rng.choice([None, None, "zlib", "zstd"])
        if options["compress"] is None:
            options["preallocate"] = rng.choice(["off", "off", "metadata", "full"])
    return options


def check_target(path: str, target_format: str, disk: bytes, source: tuple[str, str]) -> None:
    """The target is the disk, for QEMU and for us, and flawless."""
    whole = disk if target_format == "raw" else disk + bytes(-len(disk) % 512)
    if target_format == "raw":
        with open(path, "rb") as file:
            assert file.read() == whole
    else:
        run("qemu-img", "check", "-q", "-f", "qcow2", path)
        assert content(path) == whole
    found = diskcopy.compare(
        source[0], path, left_format=source[1], right_format=target_format, strict=len(whole) == len(disk)
    )
    assert found.same, found
    if len(whole) == len(disk):
        mine = diskcopy.checksum(path, format=target_format)
        assert mine == diskcopy.checksum(source[0], format=source[1])


def check_flipped_bit(path: str, target_format: str, disk: bytes, source: tuple[str, str], at: int) -> None:
    """One bit of the target changed: compare says where, and the checksum is another."""
    before = diskcopy.checksum(path, format=target_format)
    start = at & -512
    sector = bytearray(disk[start : start + 512].ljust(512, b"\0"))
    sector[at - start] ^= 1 << at % 8
    if target_format == "raw":
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(sector[at - start : at - start + 1])
    else:
        with open(path + ".sector", "wb") as file:
            file.write(sector)
        output = run("qemu-io", "-f", "qcow2", "-c", f"write -s {path}.sector {start} 512", path)
        assert "failed" not in output, output
        os.unlink(path + ".sector")
    found = diskcopy.compare(source[0], path, left_format=source[1], right_format=target_format)
    assert (found.same, found.offset) == (False, at)
    assert diskcopy.checksum(path, format=target_format) != before


def check_pipe(folder: str, rng: random.Random, source: str, source_format: str, disk: bytes) -> None:
    """Out of one process into another, and from there into a file."""
    words = ["--verify"] if rng.random() < 0.5 else []
    if rng.random() < 0.5:
        words += ["-O", "qcow2", "--cluster-size", str(1 << rng.randrange(9, 22))]
        words += ["--compress", rng.choice(["zlib", "zstd"])] if rng.random() < 0.5 else []
    target = os.path.join(folder, "piped")
    with subprocess.Popen(
        [*COMMAND, "copy", "-f", source_format, source, "-"], stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as left:
        right = subprocess.run(
            [*COMMAND, "copy", "-", target, *words], stdin=left.stdout, env=ENVIRONMENT, check=False
        )
    assert (left.returncode, right.returncode) == (0, 0)
    check_target(target, "qcow2" if "qcow2" in words else "raw", disk, (source, source_format))
    os.unlink(target)


def campaign(folder: str, seed: int, targets: int = 3, pipe: bool = False) -> None:
    """One source, several targets; the seed decides all."""
    rng = random.Random(seed)
    path, source_format, disk = random_source(folder, rng)
    for number in range(targets):
        options = random_options(rng)
        target = os.path.join(folder, f"target{number}")
        report = diskcopy.copy(path, target, source_format=source_format, **options)
        assert report.size == len(disk) == report.data + report.zero + report.hole or report.cloned
        check_target(target, options["target_format"], disk, (path, source_format))
        if report.checksum is not None:
            assert report.checksum == diskcopy.checksum(path, format=source_format)
        if disk:
            at = rng.randrange(len(disk))
            check_flipped_bit(target, options["target_format"], disk, (path, source_format), at)
        os.unlink(target)
    if pipe:
        check_pipe(folder, rng, path, source_format, disk)


@pytest.mark.parametrize("seed", range(10))
def test_a_handful(tmp_path: Path, seed: int) -> None:
    campaign(str(tmp_path), seed, pipe=seed % 4 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_hundreds(tmp_path: Path, seed: int) -> None:
    campaign(str(tmp_path), seed, pipe=seed % 8 == 0)


@settings(max_examples=5)
@given(st.integers(0, (1 << 64) - 1))
def test_as_many_as_there_is_time_for(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """`make fuzz` gives it more; a seed that fails is one for `test_a_handful`."""
    campaign(str(tmp_path_factory.mktemp("fuzz")), seed, targets=2)


@pytest.mark.root
@pytest.mark.parametrize("seed", range(4))
def test_onto_devices_with_old_data(tmp_path: Path, loop_device: Callable[..., str], seed: int) -> None:
    """Devices full of ones, with room to spare: nothing of them shows through."""
    rng = random.Random(seed)
    path, source_format, disk = random_source(str(tmp_path), rng)
    medium = tmp_path / "medium"
    medium.write_bytes(b"\xff" * (2 * len(disk) + 24 * MiB + 512 * rng.randrange(8)))
    device = loop_device(medium)
    for options in (random_options(rng) for _ in range(2)):
        options.update(workers=2, flush=True)
        options.pop("preallocate", None)
        if options["target_format"] == "qcow2":
            options["cluster_size"] = max(options["cluster_size"], 4 * KiB)
        diskcopy.copy(path, device, source_format=source_format, **options)
        if options["target_format"] == "raw":
            with open(device, "rb") as file:
                assert file.read(len(disk)) == disk
                assert set(file.read()) <= {0xFF}
        else:
            run("qemu-img", "check", "-q", "-f", "qcow2", device)
            assert diskcopy.compare(path, device, left_format=source_format, right_format="qcow2").same
            target = str(tmp_path / "read-back")
            run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", device, target)
            assert Path(target).read_bytes() == disk + bytes(-len(disk) % 512)
        medium.write_bytes(b"\xff" * medium.stat().st_size)


@pytest.mark.root
def test_a_pipe_onto_a_device(tmp_path: Path, loop_device: Callable[..., str]) -> None:
    """A device cannot be cut to the stream's size; one too small refuses what does not fit."""
    disk = random.Random(5).randbytes(3 * MiB + 1000) + bytes(2 * MiB)
    medium = tmp_path / "medium"
    medium.write_bytes(b"\xff" * (8 * MiB))
    device = loop_device(medium)
    for words in ([], ["--verify"]):
        done = subprocess.run(
            [*COMMAND, "copy", "-", device, *words], input=disk, env=ENVIRONMENT, check=False
        )
        assert done.returncode == 0
        assert Path(device).read_bytes() == disk + b"\xff" * (8 * MiB - len(disk))
    done = subprocess.run(
        [*COMMAND, "copy", "-", device], input=2 * disk, env=ENVIRONMENT, check=False, stderr=subprocess.PIPE
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"diskcopy: {device}: ".encode())
    assert done.stderr.count(b"\n") == 1
