# SPDX-License-Identifier: Apache-2.0
"""Whatever system calls answer, the file kernels get the bytes right or name the call and offset that failed.

Each fallback is forced by a system call that refuses (faults.c under LD_PRELOAD), and was
taken: the calls are counted.
"""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disks import write_sparse

HERE = Path(__file__).parent
REFUSALS = [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.ENOTTY, errno.EPERM]
Kernel = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "faults.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(HERE / "faults.c"), "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture
def kernel(shim: Path, tmp_path: Path) -> Kernel:
    def run(call: str, *arguments: object, target: str | None = None, **faults: int) -> dict[str, Any]:
        job = {
            "folder": str(tmp_path),
            "call": call,
            "arguments": arguments,
            "faults": faults,
            "target": target,
        }
        command = [sys.executable, str(HERE / "faulty_kernel.py"), json.dumps(job)]
        search = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": search}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A sparse source of an odd size, and a target full of old bytes."""
    content = write_sparse(tmp_path / "source", 700_001, random.Random(7))
    (tmp_path / "target").write_bytes(b"\xff" * len(content))
    return content


def sorted_out(answer: dict[str, Any]) -> None:
    assert answer["failure"] is None
    assert all(part > 0 for part in answer["result"]), "the source has data, zeroes and holes"


def test_short_and_interrupted_calls_are_finished(kernel: Kernel, tmp_path: Path, content: bytes) -> None:
    answer = kernel("copy_pieces", True, False, most=1000, interrupt=3)
    sorted_out(answer)
    assert answer["interrupted"] > 100
    assert (tmp_path / "target").read_bytes() == content


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_without_seek_data_all_is_read(kernel: Kernel, tmp_path: Path, content: bytes, code: int) -> None:
    answer = kernel("copy_pieces", True, False, seek=code)
    assert answer["failure"] is None
    assert sum(answer["result"]) == len(content)
    assert answer["result"][2] == 0, "nothing is known to be a hole"
    assert (tmp_path / "target").read_bytes() == content
    assert kernel("data_ranges", 5, seek=code)["result"] == [[0, len(content)], len(content)]


def test_a_hole_that_does_not_begin_later_is_data(kernel: Kernel, tmp_path: Path, content: bytes) -> None:
    """Another process punched between the two questions, or the filesystem is wrong: no endless loop."""
    answer = kernel("copy_pieces", True, False, seek_hole=-1)
    assert answer["failure"] is None
    assert (tmp_path / "target").read_bytes() == content


def test_a_file_cut_between_the_two_questions_is_data(kernel: Kernel, tmp_path: Path, content: bytes) -> None:
    answer = kernel("copy_pieces", True, False, seek_hole=errno.ENXIO)
    assert answer["failure"] is None
    assert (tmp_path / "target").read_bytes() == content


@pytest.mark.parametrize("call", ["seek", "seek_hole"])
def test_a_failing_seek_is_told(kernel: Kernel, content: bytes, call: str) -> None:
    for answer in (
        kernel("copy_pieces", True, True, **{call: errno.EIO}),
        kernel("data_ranges", 5, **{call: errno.EIO}),
    ):
        assert answer["failure"][:2] == [errno.EIO, "find data"]


@pytest.mark.parametrize("code", REFUSALS)
def test_punch_refused_means_zeroed(kernel: Kernel, tmp_path: Path, content: bytes, code: int) -> None:
    answer = kernel("copy_pieces", True, False, punch=code)
    sorted_out(answer)
    assert answer["punch"] > 0
    assert answer["zero_range"] > 0
    assert (tmp_path / "target").read_bytes() == content


@pytest.mark.parametrize("code", REFUSALS)
def test_everything_refused_means_zeroes_written(
    kernel: Kernel, tmp_path: Path, content: bytes, code: int
) -> None:
    answer = kernel("copy_pieces", True, False, punch=code, zero_range=code, zeroout=code, most=5000)
    sorted_out(answer)
    assert answer["zeroout"] > 0
    assert answer["pwrite"] >= len(content) // 5000
    assert (tmp_path / "target").read_bytes() == content


def test_without_punch_space_is_kept(kernel: Kernel, tmp_path: Path, content: bytes) -> None:
    answer = kernel("make_zero", 100, 600_000, False)
    assert answer["failure"] is None
    assert (answer["punch"], answer["zero_range"]) == (0, 1)
    expected = b"\xff" * 100 + bytes(599_900) + b"\xff" * (len(content) - 600_000)
    assert (tmp_path / "target").read_bytes() == expected


@pytest.mark.parametrize("call", ["punch", "zero_range", "zeroout"])
def test_a_failing_zero_call_is_told(kernel: Kernel, content: bytes, call: str) -> None:
    """Refused and failed are two things: a failed one must not be papered over."""
    order = ["punch", "zero_range", "zeroout"]
    before = dict.fromkeys(order[: order.index(call)], errno.EOPNOTSUPP)
    answer = kernel("make_zero", 4096, 81920, True, **before, **{call: errno.EIO})
    assert answer["failure"] == [errno.EIO, "zero", 4096]
    assert answer["pwrite"] == 0


def test_a_failing_read_is_told(kernel: Kernel, content: bytes) -> None:
    at = next(n for n in range(300_000, len(content)) if content[n])
    answer = kernel("copy_pieces", True, False, read_error=errno.EIO, read_at=at, most=512)
    code, action, offset = answer["failure"]
    assert (code, action) == (errno.EIO, "read")
    assert offset <= at < offset + 512


def test_a_file_cut_after_its_data_was_found_is_told(kernel: Kernel, content: bytes) -> None:
    at = next(n for n in range(300_000, len(content)) if content[n])
    assert kernel("copy_pieces", True, False, ends_at=at)["failure"] == [0, "read", at]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_failing_write_is_told(kernel: Kernel, content: bytes, code: int) -> None:
    at = next(n for n in range(300_000, len(content)) if content[n])
    answer = kernel("copy_pieces", True, False, write_error=code, write_at=at, most=512)
    got, action, offset = answer["failure"]
    assert (got, action) == (code, "write")
    assert offset <= at < offset + 512


def test_a_failing_write_of_zeroes_is_told(kernel: Kernel, content: bytes) -> None:
    refused = dict.fromkeys(("punch", "zero_range", "zeroout"), errno.EOPNOTSUPP)
    answer = kernel("make_zero", 10, 300_000, True, **refused, write_error=errno.ENOSPC, write_at=200_000)
    code, action, offset = answer["failure"]
    assert (code, action) == (errno.ENOSPC, "write")
    assert offset <= 200_000 < offset + 65536


def test_a_write_that_takes_nothing_is_a_failure(kernel: Kernel, content: bytes) -> None:
    answer = kernel("copy_pieces", False, True, write_nothing=1)
    assert answer["failure"][:2] == [errno.EIO, "write"]


def test_a_read_in_pieces_is_whole(kernel: Kernel, content: bytes) -> None:
    answer = kernel("read_into", len(content) - 30_000, most=777, interrupt=2)
    assert answer["result"] == 30_000
    assert answer["pread"] > 30_000 // 777


@pytest.mark.root
@pytest.mark.parametrize(
    ("refused", "used"),
    [
        ((), "punch"),
        (("punch",), "zero_range"),
        (("punch", "zero_range"), "zeroout"),
        (("punch", "zero_range", "zeroout"), "pwrite"),
    ],
)
def test_block_devices_are_zeroed_whatever_they_refuse(
    kernel: Kernel,
    tmp_path: Path,
    content: bytes,
    loop_device: Callable[..., str],
    refused: tuple[str, ...],
    used: str,
) -> None:
    """Unaligned on purpose: a device refuses what is not whole sectors, and the ends are written."""
    medium = tmp_path / "medium"
    medium.write_bytes(b"\xff" * (1 << 20))
    device = loop_device(medium)
    answer = kernel(
        "make_zero", 1000, 900_001, True, target=device, **dict.fromkeys(refused, errno.EOPNOTSUPP)
    )
    assert answer["failure"] is None
    assert answer[used] > 0
    expected = b"\xff" * 1000 + bytes(899_001) + b"\xff" * ((1 << 20) - 900_001)
    assert Path(device).read_bytes() == expected


def test_data_walked_in_parts_is_looked_for_once(kernel: Kernel, tmp_path: Path) -> None:
    """SEEK_HOLE goes through all extents to the next hole: asked once a part, it costs the square."""
    part = 1 << 16
    with open(tmp_path / "source", "wb") as file:
        file.truncate(100 * part)
        for start, length in ((0, 50 * part), (60 * part + 4096, 4096), (70 * part, 30 * part)):
            os.pwrite(file.fileno(), os.urandom(length), start)
    (tmp_path / "target").touch()
    answer = kernel("walk_in_parts", part)
    pairs = iter(answer["result"])
    covered = sum(stop - start for start, stop in zip(pairs, pairs, strict=True))
    assert covered == 80 * part + 4096
    assert answer["seek_hole"] == 3
