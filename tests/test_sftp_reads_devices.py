# SPDX-License-Identifier: Apache-2.0
"""A block device is read through SFTP as large as it is, though the server calls its size 0."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from sftp_servers import VERSION, Scripted, channel_to, data, pattern, reply, status

from diskcopy.errors import SystemFailure, Unsupported
from diskcopy.storage.ssh.sftp import device, protocol
from diskcopy.storage.ssh.sftp.far import SftpFar

MiB = 1 << 20


@pytest.mark.parametrize(
    "size", [0, 512, 1024, 1536, MiB, MiB + 512, 3 * MiB - 512, (8 << 40) + 512, (1 << 62) + 1024]
)
def test_size_is_found_in_few_rounds(size: int) -> None:
    rounds = []

    def reaches(offsets: list[int]) -> list[bool]:
        assert offsets == sorted(offsets)
        assert len(offsets) <= 128
        rounds.append(len(offsets))
        return [offset < size for offset in offsets]

    assert device.size(reaches) == size
    assert len(rounds) <= 10


def test_any_size_is_found() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        size = rng.randrange(1 << rng.randrange(1, 54)) * 512
        assert device.size(lambda offsets, size=size: [offset < size for offset in offsets]) == size


def test_contradictions_are_no_size() -> None:
    rng = random.Random(1)
    assert device.size(lambda offsets: [offset % 1024 == 0 for offset in offsets]) is None
    assert device.size(lambda offsets: [True for _ in offsets]) is None
    for _ in range(200):
        assert device.size(lambda offsets: [rng.random() < 0.5 for _ in offsets]) is None


@pytest.mark.root
def test_device_reads_as_it_is(tmp_path: Path, loop_device: Callable[..., str]) -> None:
    content = pattern(5 * MiB + 512 * 3, 1)
    medium = tmp_path / "medium"
    medium.write_bytes(content)
    with channel_to() as (channel, _):
        far = SftpFar(channel, "ssh://there/disk")
        try:
            about = far.open(loop_device(medium), locking=True)
            assert (about.size, about.device) == (len(content), True)
            assert far.about() == about
            buffer = bytearray(len(content))
            far.read(0, memoryview(buffer), 4096)
            assert buffer == content
        finally:
            far.close()


def scripted_device(beyond: int) -> Callable[[int, int, bytes], bytes]:
    def answer(kind: int, number: int, rest: bytes) -> bytes:
        if kind == protocol.INIT:
            return VERSION
        if kind in (protocol.STAT, protocol.FSTAT):
            return reply(protocol.ATTRIBUTES, number, protocol.mode_attribute(0o060660))
        if kind == protocol.OPEN:
            return reply(protocol.HANDLE, number, protocol.string(b"h"))
        offset = int.from_bytes(rest[-12:-4], "big")
        return data(number, b"x") if offset < 10 * MiB else status(number, beyond)

    return answer


@pytest.mark.parametrize("beyond", [protocol.EOF, protocol.BAD_MESSAGE, protocol.FAILURE])
def test_what_cannot_be_read_is_not_the_end(beyond: int) -> None:
    """Servers differ in how they say that nothing is there; a read error must not make a device short."""
    server = Scripted(scripted_device(beyond))
    far = SftpFar(server.channel, "ssh://there/disk")
    try:
        if beyond == protocol.FAILURE:
            with pytest.raises(SystemFailure, match=r"cannot find the size: .* says only .* at offset \d+$"):
                far.open("/dev/disk", locking=True)
        else:
            assert far.open("/dev/disk", locking=True).size == 10 * MiB
    finally:
        far.close()
        server.close()


def test_a_device_without_a_size_needs_python() -> None:
    def answer(kind: int, number: int, rest: bytes) -> bytes:
        return data(number, b"x") if kind == protocol.READ else scripted_device(0)(kind, number, rest)

    server = Scripted(answer)
    far = SftpFar(server.channel, "ssh://there/disk")
    try:
        with pytest.raises(Unsupported, match=r"whose size SFTP does not tell; with python3 on the host"):
            far.open("/dev/zeroes", locking=True)
    finally:
        far.close()
        server.close()
