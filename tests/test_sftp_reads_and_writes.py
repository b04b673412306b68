# SPDX-License-Identifier: Apache-2.0
"""Through SFTP a remote file reads as it is, and becomes what was written, from many threads at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sftp_servers import VERSION, Scripted, data, far_on, pattern, reply, status

from diskcopy.storage.ssh.sftp import protocol
from diskcopy.storage.ssh.sftp.far import SftpFar

MiB = 1 << 20


@pytest.fixture(params=["OpenSSH", "without limits"])
def far(request: pytest.FixtureRequest) -> Iterator[SftpFar]:
    with far_on(without=() if request.param == "OpenSSH" else (b"limits@openssh.com",)) as far:
        yield far


def on_threads(count: int, work: Callable[[random.Random, int], None]) -> None:
    """`work` on so many threads; the first of their failures."""
    failures: list[BaseException] = []

    def run(thread: int) -> None:
        try:
            work(random.Random(thread), thread)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_reads_of_any_size_from_many_threads(far: SftpFar, tmp_path: Path) -> None:
    content = pattern(12 * MiB + 777, 1)
    path = tmp_path / "disk"
    path.write_bytes(content)
    about = far.open(str(path), locking=True)
    assert (about.size, about.device) == (len(content), False)
    assert about.mtime_ns == int(path.stat().st_mtime) * 10**9

    def work(rng: random.Random, thread: int) -> None:
        buffer = bytearray(5 * MiB)
        for _ in range(12):
            length = rng.choice([0, 1, 4096, 32768, 261120, 261121, rng.randrange(5 * MiB)])
            offset = rng.randrange(len(content) - length + 1)
            far.read(offset, memoryview(buffer)[:length], 4096)
            assert buffer[:length] == content[offset : offset + length]

    on_threads(6, work)


def test_read_finds_what_is_data(far: SftpFar, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MiB) + b"a" * 4096 + bytes(MiB) + b"b")
    far.open(str(path), locking=True)
    buffer = memoryview(bytearray(2 * MiB + 4097))
    runs = far.read(0, buffer, 4096)
    assert runs.tolist() == [MiB, MiB + 4096, 2 * MiB + 4096, 2 * MiB + 4097]
    pairs, reached = far.extents(100, 2 * MiB)
    assert (pairs.tolist(), reached) == ([100, 2 * MiB], 2 * MiB)


def test_writes_of_any_size_from_many_threads(far: SftpFar, tmp_path: Path) -> None:
    """Each thread has its own stripes of the file, so that any order gives one result."""
    expected = bytearray(12 * MiB + 77)
    content = pattern(len(expected), 2)
    far.create(str(tmp_path / "disk"), None)
    far.resize(len(expected))
    stripe = len(expected) // 24

    def work(rng: random.Random, thread: int) -> None:
        for number in range(thread, 24, 6):
            start, end = number * stripe, (number + 1) * stripe
            while start < end:
                step = min(rng.choice([1, 512, 32769, 261121, 400_000]), end - start)
                if rng.random() < 0.8:
                    far.write(start, memoryview(content)[start : start + step])
                    expected[start : start + step] = content[start : start + step]
                start += step

    on_threads(6, work)
    far.flush(durable=True)
    assert far.about().size == len(expected)
    buffer = bytearray(len(expected))
    far.read(0, memoryview(buffer), 4096)
    assert buffer == expected
    far.commit(durable=True)
    assert (tmp_path / "disk").read_bytes() == expected


def test_zero_is_free_only_where_nothing_was_written(far: SftpFar, tmp_path: Path) -> None:
    far.create(str(tmp_path / "disk"), None)
    assert far.zero(0, 4096, True)
    far.write(8192, memoryview(b"x" * 4096))
    assert not far.zero(4096, 4096, True)
    assert not far.zero(8192, 100_000, True)
    assert far.zero(12288, MiB, True)
    far.write(MiB, memoryview(b"y" * 10))
    assert not far.zero(12288, MiB, False)
    far.resize(3 * MiB)
    assert far.zero(2 * MiB, MiB, True)
    far.commit(durable=True)
    expected = bytearray(3 * MiB)
    expected[8192:12288] = b"x" * 4096
    expected[MiB : MiB + 10] = b"y" * 10
    assert (tmp_path / "disk").read_bytes() == expected


def test_zero_makes_a_file_longer(far: SftpFar, tmp_path: Path) -> None:
    far.create(str(tmp_path / "disk"), None)
    assert far.zero(0, MiB, True)
    assert far.about().size == MiB
    assert far.zero(1000, 1000, True)
    assert far.about().size == MiB
    far.commit(durable=True)
    assert (tmp_path / "disk").read_bytes() == bytes(MiB)


def test_resize_cuts_and_grows(far: SftpFar, tmp_path: Path) -> None:
    far.create(str(tmp_path / "disk"), None)
    far.write(0, memoryview(b"a" * 10_000))
    far.resize(5000)
    far.resize(20_000)
    assert not far.zero(6000, 1000, True), "written once; to know that it was cut away is not worth it"
    far.commit(durable=True)
    assert (tmp_path / "disk").read_bytes() == b"a" * 5000 + bytes(15_000)


def test_short_replies_are_asked_again() -> None:
    content = pattern(300_000, 3)
    asked = []

    def answer(kind: int, number: int, rest: bytes) -> bytes:
        if kind == protocol.INIT:
            return VERSION
        if kind in (protocol.STAT, protocol.FSTAT):
            size = protocol.size_attribute(len(content))
            return reply(protocol.ATTRIBUTES, number, size)
        if kind == protocol.OPEN:
            return reply(protocol.HANDLE, number, protocol.string(b"h"))
        handle, fields = rest[:5], protocol.Fields(rest[5:])
        assert handle == protocol.string(b"h")
        offset, length = fields.u64(), fields.u32()
        asked.append((offset, length))
        found = content[offset : offset + min(length, 7000)]
        return data(number, found) if found else status(number, protocol.EOF)

    server = Scripted(answer)
    far = SftpFar(server.channel, "ssh://there/disk")
    try:
        far.open("/disk", locking=True)
        buffer = bytearray(len(content) - 1000)
        far.read(1000, memoryview(buffer), 4096)
        assert buffer == content[1000:]
        assert max(length for _, length in asked) <= 32 << 10
    finally:
        far.close()
        server.close()
