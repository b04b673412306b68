# SPDX-License-Identifier: Apache-2.0
"""A far server costs one round trip for many megabytes, not one for each request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sftp_servers import channel_to, pattern

from diskcopy.storage.ssh.sftp.far import SftpFar

MiB = 1 << 20
DELAY = 0.05  # each way


def by_threads(far: SftpFar, size: int, work: Callable[[int], object]) -> float:
    """Seconds that as many threads as `far` wants need for `work` at each 2 MiB."""
    offsets: Iterator[int] = iter(range(0, size, 2 * MiB))
    lock = threading.Lock()

    def run() -> None:
        while True:
            with lock:
                offset = next(offsets, None)
            if offset is None:
                return
            work(offset)

    threads = [threading.Thread(target=run) for _ in range(far.parallel)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - start


def test_a_gigabit_over_a_long_way(tmp_path: Path) -> None:
    """96 MiB are three times what is on its way at once: four round trips, where requests of 2 MiB
    one by one would take 48, and packets of 255 KiB one by one 386."""
    size = 96 * MiB
    content = pattern(2 * MiB, 1) * (size // (2 * MiB))
    path = tmp_path / "disk"
    path.write_bytes(content)
    with channel_to(delay=DELAY) as (channel, _):
        far = SftpFar(channel, "ssh://there/disk")
        try:
            far.open(str(path), locking=True)
            got = bytearray(size)
            view = memoryview(got)
            took = by_threads(far, size, lambda offset: far.read(offset, view[offset:][: 2 * MiB], 4096))
            assert got == content
            assert took < 24 * 2 * DELAY
        finally:
            far.close()
    with channel_to(delay=DELAY) as (channel, _):
        far = SftpFar(channel, "ssh://there/disk")
        try:
            far.create(str(tmp_path / "copy"), None)
            data = memoryview(content)
            took = by_threads(far, size, lambda offset: far.write(offset, data[offset:][: 2 * MiB]))
            far.commit(durable=True)
            assert took < 24 * 2 * DELAY
        finally:
            far.close()
    assert (tmp_path / "copy").read_bytes() == content


def test_many_small_requests_are_sent_together(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(pattern(MiB, 1))
    with channel_to(without=(b"limits@openssh.com",)) as (channel, _):
        far = SftpFar(channel, "ssh://there/disk")
        try:
            far.open(str(path), locking=True)
            before = channel.calls
            far.read(0, memoryview(bytearray(MiB)), 4096)
            assert channel.calls == before + 1, "32 reads of 32 KiB"
        finally:
            far.close()
        assert channel.sent < 2000


def test_overhead_is_small(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(pattern(8 * MiB, 1))
    with channel_to() as (channel, _):
        far = SftpFar(channel, "ssh://there/disk")
        try:
            far.open(str(path), locking=True)
            for offset in range(0, 8 * MiB, 2 * MiB):
                far.read(offset, memoryview(bytearray(2 * MiB)), 4096)
        finally:
            far.close()
        assert channel.received + channel.sent < 8 * MiB * 1.001
