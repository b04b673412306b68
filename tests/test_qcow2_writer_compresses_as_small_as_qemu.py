# SPDX-License-Identifier: Apache-2.0
"""A compressed image is no larger than QEMU's, and junk is told from what compresses."""

from __future__ import annotations

import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from qcow2_writing import KiB, MiB, finish, new_image, qemu_accepts

from diskcopy.formats.qcow2._junk import is_junk


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_programs_and_junk(tmp_path: Path, compression: str) -> None:
    """The Python interpreter's own files, as a guest has them, between compressed media."""
    rng = random.Random(1)
    folder = Path(sys.modules["os"].__file__ or "").parent
    content = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    content += Path(sys.executable).read_bytes()[: 8 * MiB]
    content += rng.randbytes(4 * MiB) + zlib.compress(content[: 4 * MiB])
    content = content[: len(content) // (64 * KiB) * (64 * KiB)]
    (tmp_path / "r").write_bytes(content)
    writer = new_image(tmp_path / "q", len(content), compression=compression)
    for offset in range(0, len(content), MiB):
        writer.write(offset, content[offset : offset + MiB])
    finish(writer)
    qemu_accepts(tmp_path / "q", tmp_path / "r")
    options = ["-o", f"compression_type={compression}"]
    subprocess.run(
        ["qemu-img", "convert", "-c", "-O", "qcow2", *options, str(tmp_path / "r"), str(tmp_path / "peer")],
        check=True,
    )
    assert (tmp_path / "q").stat().st_size <= (tmp_path / "peer").stat().st_size


@pytest.mark.parametrize("size", [512, 4 * KiB, 64 * KiB, 2 * MiB])
def test_random_bytes_are_junk(size: int) -> None:
    rng = random.Random(size)
    told = sum(is_junk(rng.randbytes(size)) for _ in range(40))
    assert told >= 39


@pytest.mark.parametrize("size", [4 * KiB, 64 * KiB, 2 * MiB])
def test_what_compresses_is_not_junk(size: int) -> None:
    rng = random.Random(size)
    block = rng.randbytes(size // 16)
    assert not is_junk(bytes(size))
    assert not is_junk(rng.randbytes(size - size // 16) + bytes(size // 16)), "a sixteenth is zero"
    assert not is_junk(bytes(rng.choices(range(200), k=size))), "values are missing"
    assert not is_junk(rng.randbytes(size // 2) + b"+" + 8 * block), "the same over and over"
    assert not is_junk(b"")


def test_junk_is_stored_as_it_is(tmp_path: Path) -> None:
    writer = new_image(tmp_path / "q", MiB, compression="zlib")
    writer.write(0, random.Random(1).randbytes(MiB))
    finish(writer)
    done = subprocess.run(["qemu-img", "check", str(tmp_path / "q")], capture_output=True, text=True)
    assert "0.00% compressed clusters" in done.stdout
