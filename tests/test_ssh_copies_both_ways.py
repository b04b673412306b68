# SPDX-License-Identifier: Apache-2.0
"""A disk copied to or from another host is the same disk, whatever lies around it there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import COMMAND, ENVIRONMENT, diskcopy, fails, names
from disks import MiB, allocated, sparse_file
from qemu_images import Shape, content, make_chain, make_raw, run
from sshd import Sshd
from wan_proxy import WanProxy


def at(path: Path, host: str = "kool") -> str:
    """The location of a file on the test's host."""
    from diskcopy.storage.ssh.location import Location

    return str(Location(host, str(path)))


def done(sshd: Sshd, *words: object, config: Path | None = None) -> str:
    result = diskcopy(words[0], "--ssh-config", config or sshd.config, *words[1:])
    assert result.returncode == 0, result
    return str(result.stdout)


BACKENDS = ["agent", "sftp"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_any_disk_there_and_back(sshd: Sshd, tmp_path: Path, seed: int, backend: str) -> None:
    rng = random.Random(seed)
    disk = sparse_file(tmp_path / "disk", seed, rng.choice([0, 1, 4097, rng.randrange(40 * MiB)]))
    there, back = tmp_path / "there", tmp_path / "back"
    done(sshd, "copy", "--ssh-backend", backend, tmp_path / "disk", at(there))
    assert there.read_bytes() == disk
    done(sshd, "copy", "--ssh-backend", backend, at(there), back)
    assert back.read_bytes() == disk
    for copy in (there, back):
        assert allocated(copy) <= allocated(tmp_path / "disk") + 64 * 1024
    assert names(tmp_path) == ["back", "disk", "there"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_qcow2_over_ssh(sshd: Sshd, tmp_path: Path, seed: int, backend: str) -> None:
    """Chains whose images lie there are followed there; images made there are valid."""
    rng = random.Random(seed)
    path = Path(
        make_chain(str(tmp_path), rng, rng.choice([1, 2]), Shape(size=512 * rng.randrange(1, 20_000)))
    )
    expected = content(str(path))
    done(sshd, "copy", "--ssh-backend", backend, at(path), tmp_path / "flat.raw")
    size = (tmp_path / "flat.raw").stat().st_size
    assert (tmp_path / "flat.raw").read_bytes() == expected[:size]
    compress = rng.choice([[], ["--compress", "zstd"]])
    done(sshd, "copy", "--ssh-backend", backend, at(path), at(tmp_path / "new.qcow2"), *compress)
    run("qemu-img", "check", "-q", str(tmp_path / "new.qcow2"))
    assert content(str(tmp_path / "new.qcow2")) == expected


def test_an_overlay_here_over_an_image_there(sshd: Sshd, tmp_path: Path) -> None:
    rng = random.Random(1)
    there = tmp_path / "there"
    there.mkdir()
    base = make_raw(str(there), "base.raw", rng, 8 * MiB)
    overlay = tmp_path / "overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, str(overlay))
    run("qemu-io", "-c", "write -P 7 1M 300k", str(overlay))
    expected = content(str(overlay))
    run("qemu-img", "rebase", "-u", "-F", "raw", "-b", at(Path(base)), str(overlay))
    done(sshd, "copy", overlay, tmp_path / "flat.raw")
    assert (tmp_path / "flat.raw").read_bytes() == expected
    assert "differ" not in done(sshd, "compare", overlay, tmp_path / "flat.raw")


def test_questions_are_answered_there(sshd: Sshd, tmp_path: Path, wan: Callable[..., WanProxy]) -> None:
    """Checksums and comparisons move digests; a difference is found to the byte."""
    sparse_file(tmp_path / "a", 3, 24 * MiB)
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
    proxy = wan()
    here = diskcopy("checksum", tmp_path / "a").stdout.split()[0]
    assert done(sshd, "checksum", at(tmp_path / "a"), config=proxy.config).split()[0] == here
    assert "are the same" in done(
        sshd, "compare", at(tmp_path / "a"), at(tmp_path / "b"), config=proxy.config
    )
    assert max(proxy.count()[:2]) < MiB // 4
    with open(tmp_path / "b", "r+b") as file:
        file.seek(17 * MiB + 5)
        byte = file.read(1)[0]
        file.seek(17 * MiB + 5)
        file.write(bytes([byte ^ 1]))
    for left, right in [(at(tmp_path / "a"), at(tmp_path / "b")), (tmp_path / "a", at(tmp_path / "b"))]:
        answer = diskcopy("compare", "--ssh-config", sshd.config, left, right)
        assert answer.returncode == 1
        assert str(17 * MiB + 5) in answer.stdout


def test_map_and_measure_there(sshd: Sshd, tmp_path: Path) -> None:
    sparse_file(tmp_path / "disk", 8, 5 * MiB)
    for words in (["map", "--json"], ["measure", "-O", "qcow2", "--json"]):
        local = json.loads(diskcopy(*words, tmp_path / "disk").stdout)
        assert json.loads(done(sshd, *words, at(tmp_path / "disk"))) == local


def test_only_data_cross_the_wire(sshd: Sshd, tmp_path: Path, wan: Callable[..., WanProxy]) -> None:
    """Of holes and zeroes nothing; of the data little more than they are, in both directions."""
    with open(tmp_path / "disk", "wb") as file:
        for number in range(6):
            file.seek(number * 50 * MiB)
            file.write(os.urandom(4 * MiB) + bytes(8 * MiB))
        file.truncate(1 << 40)
    proxy = wan()
    done(sshd, "copy", at(tmp_path / "disk"), tmp_path / "here", config=proxy.config)
    assert sum(proxy.count()[:2]) <= 24 * MiB * 1.02
    before = sum(proxy.count()[:2])
    done(sshd, "copy", tmp_path / "disk", at(tmp_path / "there"), config=proxy.config)
    assert sum(proxy.count()[:2]) - before <= 24 * MiB * 1.02
    for copy in ("here", "there"):
        assert "same" in diskcopy("compare", tmp_path / "disk", tmp_path / copy).stdout


@pytest.mark.parametrize(
    "name",
    ["a b", "it's", 'say "x"', "new\nline", "-n", "ünï", "$(touch x)", "`touch x`", "a;b", "b\udcff", "%41"],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_name_is_a_name_there(sshd: Sshd, tmp_path: Path, name: str, backend: str) -> None:
    (tmp_path / "disk").write_bytes(b"content")
    done(sshd, "copy", "--ssh-backend", backend, tmp_path / "disk", at(tmp_path / name))
    assert (tmp_path / name).read_bytes() == b"content"
    done(sshd, "copy", "--ssh-backend", backend, at(tmp_path / name), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"
    assert names(tmp_path) == sorted(["disk", "back", name])


def test_verified_there(sshd: Sshd, tmp_path: Path) -> None:
    disk = sparse_file(tmp_path / "disk", 4, 3 * MiB)
    report = json.loads(done(sshd, "copy", "--verify", "--json", tmp_path / "disk", at(tmp_path / "there")))
    assert report["checksum"] == diskcopy("checksum", tmp_path / "disk").stdout.split()[0]
    assert (tmp_path / "there").read_bytes() == disk


def test_streams_end_there(sshd: Sshd, tmp_path: Path) -> None:
    disk = sparse_file(tmp_path / "disk", 9, 5 * MiB + 17)
    words = ["copy", "--ssh-config", sshd.config, "-", at(tmp_path / "there")]
    with open(tmp_path / "disk", "rb") as source:
        assert diskcopy(*words, stdin=source).returncode == 0
    assert (tmp_path / "there").read_bytes() == disk
    words = ["copy", "--ssh-config", sshd.config, at(tmp_path / "there"), "-"]
    assert diskcopy(*words, text=False).stdout == disk


def test_the_rate_is_held(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(12 * MiB))
    for words in [
        (at(tmp_path / "disk"), tmp_path / "here"),
        (tmp_path / "disk", at(tmp_path / "there")),
    ]:
        report = json.loads(done(sshd, "copy", "--bwlimit", "4M", "--json", *words))
        assert 12 / 4 * 0.8 < report["seconds"] < 12 / 4 * 1.25


# --- what goes wrong -----------------------------------------------------------------------


def test_what_is_wrong_is_one_line(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    config = ["--ssh-config", sshd.config]
    line = fails(1, "copy", *config, at(tmp_path / "nothing"), tmp_path / "here")
    assert "nothing: cannot open: no such file or directory" in line
    line = fails(1, "copy", *config, tmp_path / "disk", at(tmp_path / "no" / "where"))
    assert "cannot create: no such file or directory" in line
    line = fails(1, "copy", *config, at(tmp_path / "disk"), at(tmp_path / "disk"))
    assert "is what the copy reads" in line
    line = fails(1, "copy", *config, tmp_path / "disk", at(tmp_path / "disk"))
    assert "is what the copy reads" in line
    line = fails(1, "copy", *config, "ssh://nobody-knows.invalid/x", tmp_path / "here")
    assert "nobody-knows.invalid" in line
    line = fails(2, "copy", *config, "ssh://kool", tmp_path / "here")
    assert names(tmp_path) == ["disk"]


def test_neither_python_nor_sftp(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    (tmp_path / "bare").mkdir()
    with Sshd(tmp_path / "bare", python=False, sftp=False) as bare:
        line = fails(1, "copy", "--ssh-config", bare.config, at(tmp_path / "disk"), tmp_path / "here")
    assert "has neither python3 nor SFTP" in line


def test_without_python_zeroes_cross_and_the_summary_says_so(tmp_path: Path) -> None:
    disk = sparse_file(tmp_path / "disk", 2, 3 * MiB)
    (tmp_path / "bare").mkdir()
    with Sshd(tmp_path / "bare", python=False) as bare:
        answer = diskcopy("copy", "--ssh-config", bare.config, at(tmp_path / "disk"), tmp_path / "here")
        assert answer.returncode == 0
        assert "zeroes crossed the wire" in answer.stderr
        line = fails(
            1,
            "copy",
            "--ssh-config",
            bare.config,
            "--ssh-backend",
            "agent",
            at(tmp_path / "disk"),
            tmp_path / "x",
        )
        assert "there is no python3 on that host" in line
    assert (tmp_path / "here").read_bytes() == disk


# --- lost connections ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("direction", ["from there", "to there"])
def test_a_copy_goes_on_where_it_was(
    sshd: Sshd, tmp_path: Path, wan: Callable[..., WanProxy], direction: str, backend: str
) -> None:
    """The connection is reset again and again; the disk is the same."""
    (tmp_path / "disk").write_bytes(os.urandom(40 * MiB))
    source: object = tmp_path / "disk"
    target: object = at(tmp_path / "copy")
    if direction == "from there":
        source, target = at(tmp_path / "disk"), tmp_path / "copy"
    proxy = wan(drop_after=9e6)
    words = ["copy", "--ssh-config", proxy.config, "--ssh-backend", backend, source, target]
    answer = diskcopy(*words)
    assert answer.returncode == 0, answer
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "disk").read_bytes()
    assert names(tmp_path) == ["copy", "disk"]
    assert "connecting again" in answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["from there", "to there"])
def test_a_hundred_resets(sshd: Sshd, tmp_path: Path, wan: Callable[..., WanProxy], direction: str) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(400 * MiB))
    source: object = tmp_path / "disk"
    target: object = at(tmp_path / "copy")
    if direction == "from there":
        source, target = at(tmp_path / "disk"), tmp_path / "copy"
    answer = diskcopy("copy", "--ssh-config", wan(drop_after=4e6).config, source, target, timeout=1200)
    assert answer.returncode == 0, answer
    assert answer.stderr.count("connecting again") >= 100
    assert "same" in diskcopy("compare", tmp_path / "disk", tmp_path / "copy").stdout
    assert names(tmp_path) == ["copy", "disk"]


@pytest.mark.parametrize("direction", ["from there", "to there"])
def test_a_host_that_does_not_come_back_is_given_up(tmp_path: Path, direction: str) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(30 * MiB))
    (tmp_path / "kool").mkdir()
    source, target = str(tmp_path / "disk"), at(tmp_path / "copy")
    if direction == "from there":
        source, target = at(tmp_path / "disk"), str(tmp_path / "copy")
    with Sshd(tmp_path / "kool") as host, WanProxy(host.port, rate=50e6) as proxy:
        config = host.configure(f"Port {proxy.port}", f"HostKeyAlias {host.host}", name="slow")
        words = ["copy", "--ssh-config", str(config), source, target]
        copying = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        while sum(proxy.count()[:2]) < 3 * MiB:
            time.sleep(0.01)
        proxy.stop()
        host.stop()
        _, said = copying.communicate(timeout=60)
    assert copying.returncode == 1
    *warnings, line = said.splitlines()
    assert "(5 tries)" in line
    assert all("connecting again" in text or "stays there" in text for text in warnings), warnings
    assert not (tmp_path / "copy").exists()


def test_a_source_that_changed_meanwhile_is_told(
    sshd: Sshd, tmp_path: Path, wan: Callable[..., WanProxy]
) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(30 * MiB))
    proxy = wan(rate=100e6)
    words = ["copy", "--ssh-config", str(proxy.config), at(tmp_path / "disk"), str(tmp_path / "here")]
    copying = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while sum(proxy.count()[:2]) < 2 * MiB:
        time.sleep(0.01)
    with open(tmp_path / "disk", "r+b") as file:
        file.write(b"other")
    proxy.drop()
    _, said = copying.communicate(timeout=60)
    assert copying.returncode == 1
    assert "was written to while it was read" in said
    assert names(tmp_path) == ["disk"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("direction", ["from there", "to there"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_copy_leaves_nothing_anywhere(
    tmp_path: Path, direction: str, backend: str, how: signal.Signals
) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(30 * MiB))
    (tmp_path / "kool").mkdir()
    (tmp_path / "work").mkdir()
    source, target = str(tmp_path / "disk"), at(tmp_path / "work" / "copy")
    if direction == "from there":
        source, target = at(tmp_path / "disk"), str(tmp_path / "work" / "copy")
    with Sshd(tmp_path / "kool") as host, WanProxy(host.port, rate=50e6) as proxy:
        config = host.configure(f"Port {proxy.port}", f"HostKeyAlias {host.host}", name="slow")
        words = ["copy", "--ssh-config", str(config), "--ssh-backend", backend, source, target]
        copying = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        while sum(proxy.count()[:2]) < 3 * MiB:
            time.sleep(0.01)
        copying.send_signal(how)
        _, said = copying.communicate(timeout=60)
        assert copying.returncode == -how
        assert said.count("\n") == 1, said
        assert names(tmp_path / "work") == []
        deadline = time.monotonic() + 10
        while running := [line for line in host.processes() if "python3" in line or "sftp" in line]:
            assert time.monotonic() < deadline, running
            time.sleep(0.05)


@pytest.mark.root
def test_devices_there(
    sshd: Sshd, tmp_path: Path, loop_device: Callable[..., str], wan: Callable[..., WanProxy]
) -> None:
    """A device is read, written over without old data showing through, and refused if it is too small."""
    disk = sparse_file(tmp_path / "disk", 6, 12 * MiB)
    medium = tmp_path / "medium"
    medium.write_bytes(b"old" * (5 * MiB))
    device = loop_device(medium)
    done(sshd, "copy", tmp_path / "disk", at(Path(device)), config=wan(drop_after=5e6).config)
    assert medium.read_bytes()[: len(disk)] == disk
    done(sshd, "copy", at(Path(device)), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == medium.read_bytes()
    sparse_file(tmp_path / "larger", 6, 16 * MiB)
    line = fails(1, "copy", "--ssh-config", sshd.config, tmp_path / "larger", at(Path(device)))
    assert "bytes and the disk needs 16777216" in line
    line = fails(1, "copy", "--ssh-config", sshd.config, at(Path(device)), at(Path(device)))
    assert "is in use by another process there" in line
