# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on the other side of SFTP ends in one line for everybody who waits: what, and where."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sftp_servers import (
    VERSION,
    Scripted,
    channel_to,
    data,
    far_on,
    pattern,
    reply,
    status,
)

from diskcopy.errors import Disconnected, Error, NoSpace, NotFound, NotPermitted, Refused, SystemFailure
from diskcopy.storage.ssh.sftp import protocol
from diskcopy.storage.ssh.sftp.far import SftpFar

MiB = 1 << 20


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    cases: list[tuple[str, type[Error], str]] = [
        (f"{tmp_path}/none", NotFound, "cannot open: no such file or directory"),
        (str(tmp_path), Refused, "is a directory"),
        (f"{tmp_path}/fifo", Refused, "is not a regular file"),
        ("/proc/self/status", Error, "says that it is empty, and is not"),
    ]
    for path, kind, text in cases:
        with far_on() as far:
            with pytest.raises(kind, match=f"^ssh://there/disk: {text}"):
                far.open(path, locking=True)


@pytest.mark.root
def test_no_permission_to_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"secret")
    with far_on(user=65534) as far:
        with pytest.raises(NotPermitted, match=r"^ssh://there/disk: cannot open: permission denied$"):
            far.open(str(path), locking=True)


def test_file_cut_short_where_a_request_begins(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MiB))
    with far_on(without=(b"limits@openssh.com",)) as far:
        far.open(str(path), locking=True)
        for end in (320 << 10, 100, 0):
            os.truncate(path, end)
            with pytest.raises(Error, match=rf"ends early at offset {end};"):
                far.read(0, memoryview(bytearray(MiB)), 4096)


def test_file_cut_short_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(pattern(4 * MiB, 1))
    with far_on() as far:
        far.open(str(path), locking=True)
        os.truncate(path, MiB + 10)
        with pytest.raises(
            Error, match=rf"^ssh://there/disk: ends early at offset {MiB + 10}; somebody cut it short$"
        ):
            far.read(MiB // 2, memoryview(bytearray(2 * MiB)), 4096)
        with pytest.raises(Error, match=rf"ends early at offset {3 * MiB}"):
            far.read(3 * MiB, memoryview(bytearray(10)), 4096)
        far.read(MiB, memoryview(bytearray(10)), 4096)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_full_filesystem(mounted: Callable[[str, int], Path], kind: str) -> None:
    folder = mounted(kind, 16 * MiB)
    with far_on() as far:
        far.create(str(folder / "disk"), None)
        content = memoryview(pattern(2 * MiB, 1))

        def fill() -> None:
            for offset in range(0, 32 * MiB, 2 * MiB):
                far.write(offset, content)
            far.flush(durable=True)

        with pytest.raises(
            NoSpace, match=r"^ssh://there/disk: cannot write: no space left .* at offset \d+; free"
        ):
            fill()
        far.abort()
    assert [name for name in os.listdir(folder) if name != "lost+found"] == []


@pytest.mark.root
def test_full_filesystem_of_a_server_that_does_not_tell(mounted: Callable[[str, int], Path]) -> None:
    folder = mounted("tmpfs", MiB)
    with far_on(without=(b"fstatvfs@openssh.com",)) as far:
        far.create(str(folder / "disk"), None)
        with pytest.raises(
            SystemFailure,
            match=r"^ssh://there/disk: cannot write: the SFTP server says only 'Failure' at offset \d+$",
        ):
            far.write(0, memoryview(pattern(4 * MiB, 1)))
        far.abort()


def together(count: int, work: Callable[[int], object]) -> list[BaseException]:
    """What each of `count` threads at `work` failed with; all end within seconds."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return failures


@pytest.mark.parametrize("writing", [False, True])
@pytest.mark.parametrize("after", [0, 100_000, 3_333_333])
def test_killed_server_tells_all_who_wait(tmp_path: Path, after: int, writing: bool) -> None:
    """Some have requests on their way, some wait for room on the wire, one may be sending."""
    path = tmp_path / "disk"
    content = pattern(4 * MiB, 1)
    path.write_bytes(content)
    with channel_to() as (channel, process):
        far = SftpFar(channel, "ssh://there/disk")
        if writing:
            far.create(str(path), None)
        else:
            far.open(str(path), locking=True)
        enough = threading.Event()

        def work(number: int) -> None:
            buffer = memoryview(bytearray(content))
            while True:
                if channel.sent + channel.received > after:
                    enough.set()
                if writing:
                    far.write(0, buffer)
                else:
                    far.read(0, buffer, 4096)

        def kill() -> None:
            enough.wait()
            process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        failures = together(24, work)
        killer.join()
        assert len(failures) == 24
        for failure in failures:
            assert isinstance(failure, Disconnected)
            assert str(failure).startswith("ssh://there/disk: the connection was lost")
        with pytest.raises(Disconnected):
            far.about()
        far.close()


def test_stopped_server_and_close_from_another_thread(tmp_path: Path) -> None:
    """Whoever waits when the session is closed is told, be it for a reply or for room to send."""
    with channel_to() as (channel, process):
        far = SftpFar(channel, "ssh://there/disk")
        far.create(str(tmp_path / "disk"), None)
        process.send_signal(signal.SIGSTOP)
        closer = threading.Timer(0.3, far.close)
        closer.start()
        content = memoryview(bytes(4 * MiB))
        failures = together(24, lambda number: far.write(0, content))
        closer.join()
        assert len(failures) == 24
        assert {type(failure) for failure in failures} == {Disconnected}
        assert {str(failure) for failure in failures} == {"ssh://there/disk: is closed"}


def test_requests_on_their_way_are_bounded() -> None:
    """However many threads ask for however much, a server that does not answer is not asked for all."""
    asked = []

    def answer(kind: int, number: int, rest: bytes) -> bytes:
        if kind == protocol.READ:
            asked.append(int.from_bytes(rest[-4:], "big"))
        return VERSION if kind == protocol.INIT else b""

    server = Scripted(answer)
    far = SftpFar(server.channel, "ssh://there/disk")
    closer = threading.Timer(0.5, far.close)
    closer.start()
    failures = together(20, lambda number: far.read(0, memoryview(bytearray(8 * MiB)), 4096))
    closer.join()
    server.close()
    assert len(failures) == 20
    assert 30 * MiB <= sum(asked) <= 34 * MiB
    assert len(asked) <= 1100


@pytest.fixture
def scripted() -> Iterator[Callable[..., SftpFar]]:
    """`scripted(answer)`: a far side on a server that answers like that, after a proper greeting."""
    ends: list[Callable[[], None]] = []

    def start(answer: Callable[[int, int, bytes], bytes | None]) -> SftpFar:
        server = Scripted(lambda kind, *rest: VERSION if kind == protocol.INIT else answer(kind, *rest))
        ends.append(server.close)
        far = SftpFar(server.channel, "ssh://there/disk")
        ends.append(far.close)
        return far

    yield start
    for end in reversed(ends):
        end()


def test_what_is_given_up_does_not_touch_the_buffer(scripted: Callable[..., SftpFar]) -> None:
    """An interrupted read may still be answered: its buffer belongs to the caller again."""
    asked, go_on = threading.Event(), threading.Event()
    content = pattern(30_000, 1)

    def answer(kind: int, number: int, rest: bytes) -> bytes:
        if kind == protocol.FSTAT:
            return reply(protocol.ATTRIBUTES, number, protocol.size_attribute(7))
        whole = data(number, content)
        if not asked.is_set():
            asked.set()
            halves.append(whole[15_000:])
            return whole[:15_000]
        go_on.wait()
        return halves.pop() + whole

    halves: list[bytes] = []
    far = scripted(answer)

    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    buffer = bytearray(len(content))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Interrupted):
            far.read(0, memoryview(buffer), 4096)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert buffer == content[: 15_000 - 13] + bytes(len(content) - 15_000 + 13)
    buffer[:] = b"mine" * (len(buffer) // 4)
    go_on.set()
    other = bytearray(len(content))
    far.read(0, memoryview(other), 4096)
    assert other == content
    assert buffer == b"mine" * (len(buffer) // 4)


@pytest.mark.parametrize("code", [protocol.NO_CONNECTION, protocol.CONNECTION_LOST])
def test_a_server_that_lost_its_own_connection(scripted: Callable[..., SftpFar], code: int) -> None:
    far = scripted(lambda kind, number, rest: status(number, code))
    with pytest.raises(Disconnected, match="the SFTP server lost its own connection"):
        far.about()
    with pytest.raises(Disconnected):
        far.about()


def test_words_of_the_server_stay_on_one_line(scripted: Callable[..., SftpFar]) -> None:
    far = scripted(lambda kind, number, rest: status(number, protocol.FAILURE, b"a\nb\x1b[31m" + b"x" * 1000))
    with pytest.raises(
        SystemFailure, match=r"^ssh://there/disk: cannot ask about: .* 'a\?b\?\[31mx{1,200}'$"
    ):
        far.about()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda kind, number: status(number + 1, 0), "STATUS to request 2, which was not asked"),
        (lambda kind, number: reply(protocol.HANDLE, number, b"\0\0\0\1h"), "HANDLE to a request of type"),
        (lambda kind, number: reply(99, number), "packet of type 99"),
        (lambda kind, number: VERSION, "VERSION to request 3, which was not asked"),
        (lambda kind, number: struct.pack(">IBI", 1 << 31, 101, number), "STATUS of 2147483648 bytes"),
        (lambda kind, number: struct.pack(">IBI", 3, 101, number), "STATUS of 3 bytes"),
        (lambda kind, number: status(number, 0), "OK to a"),
        (lambda kind, number: reply(101, number), "STATUS of 0 bytes"),
        (lambda kind, number: reply(101, number, b"\0\0\0\4\xff\xff\xff\xff"), "STATUS of 8 bytes"),
        (
            lambda kind, number: data(number, b"x" * 11),
            "DATA of 11 bytes in a packet of 20, where 10 were asked",
        ),
        (lambda kind, number: data(number, b""), "DATA of 0 bytes"),
        (lambda kind, number: data(number, b"x" * 10)[:9] + b"\0\0\0\5" + b"x" * 10, "DATA of 5 bytes"),
        (
            lambda kind, number: struct.pack(">IBII", 1 << 31, 103, number, (1 << 31) - 9),
            "DATA of 2147483639 bytes",
        ),
    ],
)
def test_nonsense_is_named(
    scripted: Callable[..., SftpFar], answer: Callable[[int, int], bytes], text: str
) -> None:
    far = scripted(lambda kind, number, rest: answer(kind, number))
    with pytest.raises(Error, match=r"^ssh://there/disk: the SFTP server answers nonsense: ") as raised:
        far.read(0, memoryview(bytearray(10)), 4096)
    assert text in str(raised.value)
    assert not isinstance(raised.value, Disconnected), "it would be asked again, and again"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (protocol.ATTRIBUTES, struct.pack(">IQ", 5, 7)),
        (protocol.NAME, struct.pack(">I", 2)),
        (protocol.NAME, struct.pack(">I", 1) + struct.pack(">I", 1 << 31)),
    ],
)
def test_short_replies_are_named(scripted: Callable[..., SftpFar], kind: int, body: bytes) -> None:
    far = scripted(lambda asked, number, rest: reply(kind, number, body))
    with pytest.raises(Error, match=f"nonsense: {protocol.NAMES[kind]} of {len(body)} bytes"):
        far.create("/disk", None) if kind == protocol.NAME else far.open("/disk", locking=True)


def test_a_handle_has_a_bound(scripted: Callable[..., SftpFar]) -> None:
    def answer(kind: int, number: int, rest: bytes) -> bytes:
        if kind == protocol.OPEN:
            return reply(protocol.HANDLE, number, protocol.string(b"h" * 257))
        return reply(protocol.ATTRIBUTES, number, protocol.size_attribute(7))

    with pytest.raises(Error, match="nonsense: a handle of 257 bytes"):
        scripted(answer).open("/disk", locking=True)


@pytest.mark.parametrize(
    ("greeting", "kind", "text"),
    [
        (b"", Disconnected, "the SFTP server ended before it began"),
        (
            b"Welcome to the machine\n",
            Error,
            r"is not an SFTP server: .*Welcome t.*; see that no login script",
        ),
        (reply(2, 2), Error, "speaks version 2 of SFTP, not 3"),
        (reply(2, 3, b"\0\0\0\4abc"), Error, "nonsense: VERSION of 7 bytes"),
    ],
)
def test_what_does_not_greet_is_no_server(greeting: bytes, kind: type[Error], text: str) -> None:
    server = Scripted(lambda *_: greeting or None)
    try:
        with pytest.raises(kind, match=text):
            SftpFar(server.channel, "ssh://there/disk")
    finally:
        server.close()


def test_nothing_is_imported_of_paramiko() -> None:
    code = "import sys, diskcopy.storage.ssh.sftp.far; sys.exit('paramiko' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
