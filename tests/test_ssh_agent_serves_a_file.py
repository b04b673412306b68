# SPDX-License-Identifier: Apache-2.0
"""The agent's reads, writes, extents and digests are what the same calls do to the file here."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import random
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import sparse_file
from local_channel import LocalChannel

from diskcopy import _fd, _zero
from diskcopy.errors import Disconnected, Error, NoSpace, NotFound, Refused
from diskcopy.storage.ssh.agent import program
from diskcopy.storage.ssh.agent.far import AgentFar, NoPython, command

MiB = 1 << 20


@contextlib.contextmanager
def agent(shell: str = "sh", prefix: str = "") -> Iterator[AgentFar]:
    channel = LocalChannel(shell, "-c", prefix + command())
    far = AgentFar(channel, "kool:file")
    try:
        yield far
    finally:
        far.close()


def test_the_program_is_python_3_6() -> None:
    ast.parse(Path(program.__file__).read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("seed", range(12))
def test_reads_find_the_zeroes_there(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    size = rng.choice([1, 4096, 100_000, rng.randrange(1, 6 * MiB)])
    content = sparse_file(tmp_path / "disk", seed, size)
    with agent() as far:
        about = far.open(str(tmp_path / "disk"), locking=True)
        assert about.size == size
        for _ in range(6):
            start, end = sorted(rng.choice([0, size, rng.randrange(size + 1)]) for _ in range(2))
            unit = rng.choice([512, 4096, 64 << 10, 300_000])
            buffer = bytearray(b"\xff" * (end - start))
            runs = far.read(start, memoryview(buffer), unit)
            assert buffer == content[start:end]
            assert runs == _zero.data_runs(buffer, unit)


@pytest.mark.parametrize("seed", range(6))
def test_extents_and_digests(tmp_path: Path, seed: int) -> None:
    size = random.Random(seed).randrange(1, 8 * MiB)
    content = sparse_file(tmp_path / "disk", seed, size)
    fd = os.open(tmp_path / "disk", os.O_RDONLY)
    with agent() as far:
        far.open(str(tmp_path / "disk"), locking=True)
        assert far.extents(0, size) == _fd.data_ranges(fd, 0, size, 100_000)
        leaves = [content[at : at + MiB].ljust(MiB, b"\0") for at in range(0, size, MiB)]
        assert far.digests(0, size, MiB) == [
            hashlib.sha256(leaf).digest() if leaf.strip(b"\0") else bytes(32) for leaf in leaves
        ]
    os.close(fd)


def test_more_extents_than_an_answer_holds(tmp_path: Path) -> None:
    count = program.MOST_RANGES + 10
    with open(tmp_path / "disk", "wb") as file:
        for number in range(count):
            os.pwrite(file.fileno(), b"x", number * 8192)
    size = os.path.getsize(tmp_path / "disk")
    with agent() as far:
        far.open(str(tmp_path / "disk"), locking=True)
        first, reached = far.extents(0, size)
        assert 0 < reached < size
        second, end = far.extents(reached, size)
        assert (len(first) + len(second), end) == (2 * count, size)


def test_many_threads_at_once(tmp_path: Path) -> None:
    content = sparse_file(tmp_path / "disk", 5, 8 * MiB)
    wrong = []
    with agent() as far:
        far.open(str(tmp_path / "disk"), locking=True)

        def read(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(30):
                start = rng.randrange(8 * MiB)
                buffer = bytearray(min(8 * MiB - start, rng.randrange(1, MiB)))
                far.read(start, memoryview(buffer), 4096)
                if buffer != content[start : start + len(buffer)]:
                    wrong.append(start)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("seed", range(6))
def test_a_new_file_appears_when_it_is_committed(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randrange(1, 3 * MiB)
    expected = bytearray(size)
    name = rng.choice(["disk", "a b", "it's", 'say "x"', "new\nline", "-n", "ünï", "$(touch x)", "b\udcff"])
    path = tmp_path / name
    with agent() as far:
        begun = far.create(str(path), None)
        assert begun.replaced is None
        far.resize(size)
        for _ in range(10):
            at = rng.randrange(size)
            data = rng.randbytes(min(size - at, rng.choice([1, 5000, MiB])))
            far.write(at, memoryview(data))
            expected[at : at + len(data)] = data
            low, high = sorted(rng.randrange(size + 1) for _ in range(2))
            if low < high and far.zero(low, high - low, rng.random() < 0.5):
                expected[low:high] = bytes(high - low)
        far.flush(durable=True)
        assert not path.exists()
        far.forget()
        buffer = bytearray(size)
        far.read(0, memoryview(buffer), 4096)
        assert buffer == expected
        far.commit(durable=True)
        far.commit(durable=True)
    assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == [name]


def test_aborting_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"old")
    with agent() as far:
        begun = far.create(str(path), None)
        about = os.stat(path)
        assert begun.replaced == (about.st_dev, about.st_ino)
        far.write(0, memoryview(b"new"))
        far.abort()
        far.abort()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["disk"]


def test_what_is_replaced_keeps_its_mode_and_links_stay(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"old")
    path.chmod(0o640)
    (tmp_path / "link").symlink_to("disk")
    with agent() as far:
        far.create(str(tmp_path / "link"), None)
        far.write(0, memoryview(b"new"))
        far.commit(durable=False)
    assert (tmp_path / "link").is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_another_agent_goes_on_where_one_was(tmp_path: Path) -> None:
    path = str(tmp_path / "disk")
    with agent() as far:
        begun = far.create(path, None)
        far.write(0, memoryview(b"one"))
    assert os.listdir(tmp_path) == [os.path.basename(begun.temporary)]
    with agent() as far:
        assert far.create(path, begun.temporary) == begun
        far.write(3, memoryview(b"two"))
        far.commit(durable=True)
    assert (tmp_path / "disk").read_bytes() == b"onetwo"
    with agent() as far, pytest.raises(NotFound):
        far.create(path, begun.temporary)


def test_an_agent_that_hangs_is_ended_by_its_successor(tmp_path: Path) -> None:
    """Its connection is lost, and it does not know; what it still had to write is old."""
    path = str(tmp_path / "disk")
    channel = LocalChannel("sh", "-c", command())
    old = AgentFar(channel, "kool:file")
    begun = old.create(path, None)
    channel.process.send_signal(signal.SIGSTOP)
    # Somebody who only looks at the file is left alone.
    with open(begun.temporary, "rb"), agent() as far:
        far.create(path, begun.temporary)
        assert channel.process.wait(5) == -signal.SIGKILL
        far.write(0, memoryview(b"new"))
        far.commit(durable=True)
    old.close()
    assert (tmp_path / "disk").read_bytes() == b"new"


def test_a_full_filesystem_there(mounted: Callable[[str, int], Path]) -> None:
    folder = mounted("ext4", 16 * MiB)
    with agent() as far:
        far.create(str(folder / "disk"), None)
        with pytest.raises(NoSpace, match="cannot write: no space left on device at offset"):
            far.write(0, memoryview(bytes(range(256)) * (1 << 18)))
        far.abort()
    assert not [name for name in os.listdir(folder) if "disk" in name]


# --- what goes wrong -----------------------------------------------------------------------


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    for path, kind, words in [
        ("nothing", NotFound, "cannot open: no such file"),
        (".", Refused, "is a directory"),
        ("fifo", Refused, "neither a file nor a block device"),
    ]:
        with agent() as far, pytest.raises(kind, match=words):
            far.open(str(tmp_path / path), locking=True)
    for path, kind, words in [
        ("no/where", NotFound, "cannot create: no such file"),
        (".", Refused, "is a directory"),
        ("file/", Refused, "name of a folder"),
        ("fifo", Refused, "is not a regular file"),
    ]:
        name = os.path.join(tmp_path, path)
        with agent() as far, pytest.raises(kind, match=words):
            far.create(name, None)
    with agent() as far, pytest.raises(Refused, match="no such device"):
        far.create("/dev/no-such-disk", None)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "file"]


def test_a_running_guests_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MiB))
    guest = subprocess.Popen(
        ["qemu-io", "-f", "raw", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert guest.stdin is not None
    assert guest.stdout is not None
    guest.stdin.write("write 0 512\n")
    guest.stdin.flush()
    guest.stdout.readline()
    try:
        with agent() as far, pytest.raises(Refused, match="in use by another process there"):
            far.open(str(path), locking=True)
        with agent() as far, pytest.raises(Refused, match="in use by another process there"):
            far.create(str(path), None)
        with agent() as far:
            assert far.open(str(path), locking=False).size == MiB
    finally:
        guest.communicate("quit\n")


def test_a_file_cut_short_says_where(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 100_000)
    with agent() as far:
        far.open(str(path), locking=True)
        os.truncate(path, 50_000)
        with pytest.raises(Error, match="ends early at offset 50000"):
            far.read(40_000, memoryview(bytearray(20_000)), 4096)
        assert far.about().size == 50_000


def test_a_failed_write_says_where(tmp_path: Path) -> None:
    with agent(prefix="trap '' XFSZ; ulimit -f 1; ") as far:
        far.create(str(tmp_path / "disk"), None)
        with pytest.raises(Error, match="cannot write: file too large at offset"):
            far.write(0, memoryview(bytes(range(256)) * 20_000))
        far.abort()
    assert os.listdir(tmp_path) == []


def test_no_python_is_told(tmp_path: Path) -> None:
    channel = LocalChannel("sh", "-c", f"PATH={tmp_path}; {command()}")
    with pytest.raises(NoPython):
        AgentFar(channel, "kool")
    channel = LocalChannel("sh", "-c", "yes welcome")
    with pytest.raises(NoPython):
        AgentFar(channel, "kool")


def test_a_talkative_login_is_listened_through(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x" * 10)
    with agent(prefix="echo Welcome to kool; ") as far:
        assert far.open(str(tmp_path / "disk"), locking=True).size == 10


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_everybody_hears_of_a_lost_connection(tmp_path: Path, how: str) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(64 * MiB))
    channel = LocalChannel("sh", "-c", command())
    far = AgentFar(channel, "kool")
    far.open(str(tmp_path / "disk"), locking=True)
    heard: list[BaseException] = []

    def read() -> None:
        try:
            while True:
                far.read(0, memoryview(bytearray(8 * MiB)), 4096)
        except BaseException as error:
            heard.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    if how == "killed":
        channel.process.kill()
    else:
        far.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert {type(error) for error in heard} == {Disconnected}
    with pytest.raises(Disconnected):
        far.about()
    far.close()


def test_the_program_ends_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    channel = LocalChannel("sh", "-c", command())
    far = AgentFar(channel, "kool")
    far.open(str(tmp_path / "disk"), locking=True)
    far.close()
    assert channel.process.wait(5) == 0


def test_nonsense_is_no_answer(tmp_path: Path) -> None:
    """An answer to no question, data that was not asked for, an answer without end."""
    for answer in [
        program.ANSWER.pack(77, program.DONE, 0, 0),
        program.ANSWER.pack(1, program.DATA, 0, 100) + bytes(100),
        program.ANSWER.pack(1, program.DONE, 0, 0xFFFFFFFF),
    ]:
        script = f"import os,time;os.write(1,{program.HELLO + answer!r});time.sleep(60)"
        channel = LocalChannel("python3", "-c", script)
        far = AgentFar(channel, "kool")
        with pytest.raises(Disconnected):
            far.about()
        channel.process.kill()
        far.close()
