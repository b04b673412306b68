# SPDX-License-Identifier: Apache-2.0
"""A connection is made as ssh_config says, does what it is for, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sshd import Sshd, free_port, make_key
from wan_proxy import WanProxy

from diskcopy.errors import Disconnected, Unreachable, UsageError
from diskcopy.storage.ssh.connection import LOST, Connection, _Packets, connect
from diskcopy.storage.ssh.library import paramiko
from diskcopy.storage.ssh.location import Location
from diskcopy.storage.ssh.options import SshOptions

KOOL = Location("kool", "/a")


def everything(channel: paramiko.Channel) -> bytes:
    parts = []
    while part := channel.recv(1 << 24):
        parts.append(part)
    channel.close()
    return b"".join(parts)


def reach(config: Path | None, location: Location = KOOL, **options: bool) -> Connection:
    return connect(location, SshOptions(config=str(config), **options))


def says(config: Path | None, command: str, location: Location = KOOL, **options: bool) -> bytes:
    """What a command prints there."""
    connection = reach(config, location, **options)
    try:
        assert connection.alive
        return everything(connection.run(command))
    finally:
        connection.close()
        assert not connection.alive
        connection.close()


def fails(config: Path | None, location: Location = KOOL) -> str:
    with pytest.raises(Unreachable) as failure:
        reach(config, location)
    assert not isinstance(failure.value, Disconnected)
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_commands_run_and_their_bytes_arrive(sshd: Sshd) -> None:
    assert says(sshd.config, "printf '%s\\0' 'a  b' \"$(echo c)\"") == b"a  b\0c\0"
    assert says(sshd.config, "printf %s '\udcff漢'") == b"\xff" + "漢".encode()


def test_what_is_sent_arrives(sshd: Sshd) -> None:
    data = os.urandom(1 << 20) * 5
    connection = reach(sshd.config)
    try:
        channel = connection.run(f"head -c {len(data)}")
        writer = threading.Thread(target=channel.sendall, args=[data])
        writer.start()
        assert b"".join(iter(lambda: channel.recv(1 << 24), b"")) == data
        writer.join()
        channel.close()
    finally:
        connection.close()


def test_subsystems_start_or_are_said_to_be_missing(sshd: Sshd, tmp_path: Path) -> None:
    connection = reach(sshd.config)
    try:
        channel = connection.subsystem("sftp")
        channel.sendall(b"\0\0\0\5\1\0\0\0\3")  # SSH_FXP_INIT, version 3
        assert channel.recv(9)[4:9] == b"\2\0\0\0\3"
        with pytest.raises(Unreachable, match="kool: has no subsystem nothing"):
            connection.subsystem("nothing")
        assert connection.alive
    finally:
        connection.close()


def test_the_ciphers_are_the_fast_ones(sshd: Sshd) -> None:
    connection = reach(sshd.config)
    try:
        assert connection._transport
        assert connection._transport.local_cipher == "aes128-gcm@openssh.com"
        assert connection._transport.remote_cipher == "aes128-gcm@openssh.com"
        assert connection._transport.local_compression == "none"
    finally:
        connection.close()


@pytest.mark.parametrize("how", ["option", "config"])
def test_compression_is_what_was_asked_for(how: str, sshd: Sshd, wan: Callable[..., WanProxy]) -> None:
    proxy = wan()
    settings = ["Compression yes"] if how == "config" else []
    config = sshd.configure(
        *settings, f"Port {proxy.port}", f"HostKeyAlias {sshd.host}", name="compressed_config"
    )
    assert len(says(config, "head -c 3000000 /dev/zero", compression=how == "option")) == 3_000_000
    assert proxy.count().to_client < 100_000


def test_the_address_wins_over_the_configuration(sshd: Sshd) -> None:
    config = sshd.configure(f"Port {sshd.port}", name="wrong_config")
    assert "nobody-here@127.0.0.1" in fails(config, KOOL._replace(user="nobody-here"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert f"127.0.0.1:{port} refuses connections; see that sshd" in fails(
            config, KOOL._replace(port=port)
        )


def test_included_files_count(sshd: Sshd, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.write_text(sshd.config.read_text())
    outer = tmp_path / "outer"
    outer.write_text(f"Host other\n  Include {tmp_path}/nothing-here*\n  Port 1\nInclude {inner}\n")
    # In a block for another host, the blocks of the file count for both.
    assert "no address for kool" in fails(outer)
    outer.write_text(f"Host other\n  Port 1\nHost ko*\n  Include {inner}\nHost *\n  User nobody-here\n")
    assert says(outer, "echo hi") == b"hi\n"
    inner.write_text(f"Include {outer}\n")
    with pytest.raises(UsageError, match="includes too deep"):
        reach(outer)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ConnectTimeout soon", "soon: is no time for connecttimeout"),
        ("ServerAliveCountMax x", "x: is no number for serveralivecountmax"),
        ("ProxyJump a:b:c", "a:b:c is no host for ProxyJump"),
        ("Match", "is no ssh configuration"),
        ("AddressFamily inet5", "is no AddressFamily"),
    ],
)
def test_a_configuration_without_sense_is_refused(line: str, words: str, sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"{line}\n{sshd.config.read_text()}")
    with pytest.raises(UsageError, match=words):
        reach(config)


def test_a_missing_configuration_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read this ssh configuration: no such file"):
        reach(tmp_path / "nothing")


# --- hosts that do not answer ---------------------------------------------------------


def test_unknown_hosts_are_named(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("")
    assert "no address for nowhere.invalid" in fails(tmp_path / "config", Location("nowhere.invalid", "/a"))


@pytest.fixture
def answering() -> Iterator[Callable[[bytes | None], int]]:
    """A port where each connection gets these bytes and is closed, or with None nothing, for ever."""
    ends: list[socket.socket] = []

    def listen(greeting: bytes | None) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        ends.append(server)

        def serve() -> None:
            try:
                link, _ = server.accept()
            except OSError:
                return
            ends.append(link)
            if greeting is not None:
                link.sendall(greeting)
                link.close()

        threading.Thread(target=serve, daemon=True).start()
        return int(server.getsockname()[1])

    yield listen
    for end in ends:
        if end.fileno() >= 0:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            finally:
                end.close()


def test_a_port_that_never_answers_is_given_up(answering: Callable[[bytes | None], int], sshd: Sshd) -> None:
    config = sshd.configure("ConnectTimeout 1", f"Port {answering(None)}", name="mute_config")
    began = time.monotonic()
    assert "does not answer within 1 s" in fails(config)
    assert time.monotonic() - began < 4


def test_a_host_that_takes_no_connection_is_given_up(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as ends:
        # Linux drops what comes when the queue is full, as a firewall does.
        for _ in range(3):
            waiting = ends.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        config = sshd.configure("ConnectTimeout 1", f"Port {full.getsockname()[1]}", name="full_config")
        assert "does not answer within 1 s; see that the host is up" in fails(config)


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"SSH-1.5-x\r\n"]
)
def test_what_is_no_sshd_is_said_to_be_none(
    greeting: bytes, answering: Callable[[bytes | None], int], sshd: Sshd
) -> None:
    config = sshd.configure(f"Port {answering(greeting)}", name="other_config")
    words = "Incompatible version" if b"1.5" in greeting else "does not speak SSH, or hangs up at once"
    assert words in fails(config)


# --- ways there -----------------------------------------------------------------------


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Sshd]:
    """Another host, to jump from."""
    (tmp_path / "gate").mkdir()
    with Sshd(tmp_path / "gate", alias="gate") as one:
        yield one


def test_jumps_lead_through_other_hosts(sshd: Sshd, gate: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host kool\n ProxyJump gate\n{sshd.config.read_text()}{gate.config.read_text()}")
    data = 40 << 20
    before = len(gate.connections())
    connection = reach(config)
    try:
        assert len(gate.connections()) == before + 1
        began = time.monotonic()
        assert len(everything(connection.run(f"head -c {data} /dev/zero"))) == data
        # Two connections in one process; without draining the channel at once it is 15 MB/s.
        assert data / (time.monotonic() - began) > 20e6
    finally:
        connection.close()
    # From gate to itself and on, with user and port in words.
    port = f"ssh://{gate.user}@127.0.0.1:{gate.port}"
    config.write_text(
        f"Host kool\n ProxyJump gate,{port}\nHost 127.0.0.1\n UserKnownHostsFile {gate.known_hosts}\n"
        f" IdentityFile {gate.key}\n{sshd.config.read_text()}{gate.config.read_text()}"
    )
    assert says(config, "echo hi") == b"hi\n"


def test_what_fails_on_the_way_is_named(sshd: Sshd, gate: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    gate_config = gate.config.read_text()
    config.write_text(f"Host kool\n ProxyJump gate\n HostName 127.0.0.1\n Port 1\n{gate_config}")
    assert "gate, the host to jump from, cannot connect to 127.0.0.1 port 1" in fails(config)
    config.write_text("Host kool\n ProxyJump kool\n HostName 127.0.0.1\n")
    with pytest.raises(UsageError, match="is it behind itself"):
        reach(config)


def test_commands_lead_there_too(sshd: Sshd, tmp_path: Path) -> None:
    config = sshd.configure(
        f"ProxyCommand ssh -F {sshd.config} -W 127.0.0.1:{sshd.port} %r@kool", name="proxied_config"
    )
    assert len(says(config, "head -c 3000000 /dev/zero")) == 3_000_000
    config = sshd.configure("ProxyCommand echo 'no way there' >&2; false", name="proxied_config")
    assert "its ProxyCommand fails: no way there; run it by hand" in fails(config)


def test_ipv6_hosts_are_reached(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    try:
        free_port(socket.AF_INET6)
    except OSError:  # a machine without IPv6: then that is what has to be said
        bare.write_text("")
        assert "cannot connect to [::1]:22" in fails(bare, Location.parse("ssh://[::1]/a"))
        return
    with Sshd(tmp_path, address="::1") as one:
        bare.write_text(f"IdentityFile {one.key}\nUserKnownHostsFile {one.known_hosts}\n")
        assert says(bare, "echo hi", Location.parse(f"ssh://[::1]:{one.port}/a")) == b"hi\n"


def test_a_proxy_command_that_does_not_end_is_killed(sshd: Sshd, tmp_path: Path) -> None:
    mark = tmp_path / "ended"
    far = f"ssh -F {sshd.config} -W 127.0.0.1:{sshd.port} kool"
    stubborn = tmp_path / "stubborn"
    stubborn.write_text(f"trap '' TERM\n{far}\nsleep 1000 & echo $! > {mark}\nwait\nwait\n")
    config = sshd.configure(f"ProxyCommand sh {stubborn}", name="stubborn_config")
    assert says(config, "echo hi") == b"hi\n"
    arguments = Path(f"/proc/{mark.read_text().strip()}/cmdline")
    deadline = time.monotonic() + 5
    # Gone, or dead and not waited for: then it has none.
    while arguments.exists() and arguments.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- being let in ---------------------------------------------------------------------


def test_those_who_are_not_let_in_are_told_what_was_tried(sshd: Sshd, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")
    config = sshd.configure(f"IdentityFile {wrong}", name="wrong_config")
    text = config.read_text().replace(f"IdentityFile {sshd.key}", "Port 1")
    config.write_text(text)
    account = f"{sshd.user}@127.0.0.1:{sshd.port}"
    assert f"kool: does not let {account} in with {wrong}; see that this gets in" in fails(config)
    wrong.write_text("no key\n")
    assert f"{wrong} (" in fails(config)
    wrong.unlink()
    wrong.with_suffix(".pub").unlink(missing_ok=True)
    assert f"does not let {account} in with no key at all" in fails(config)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_keys_of_every_kind_open(kind: str, sshd: Sshd, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", kind)
    authorized = sshd.folder / "authorized_keys"
    before = authorized.read_text()
    authorized.write_text(before + (tmp_path / "key.pub").read_text())
    try:
        config = tmp_path / "config"
        config.write_text(sshd.config.read_text().replace(str(sshd.key), str(key)))
        assert says(config, "echo hi") == b"hi\n"
    finally:
        authorized.write_text(before)


# --- connections that end -------------------------------------------------------------


def test_a_killed_connection_is_a_lost_one(sshd: Sshd) -> None:
    connection = reach(sshd.config)
    try:
        channel = connection.run("sleep 100")
        assert sshd.kill_connections() > 0
        assert channel.recv(1) == b""
        deadline = time.monotonic() + 5
        while connection.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not connection.alive
        with pytest.raises(Disconnected, match="kool: the connection was lost"):
            connection.run("true")
        with pytest.raises(Disconnected, match="kool: the connection was lost"):
            connection.subsystem("sftp")
    finally:
        connection.close()


def test_a_host_that_falls_silent_is_noticed_even_in_a_write(
    sshd: Sshd, wan: Callable[..., WanProxy]
) -> None:
    proxy = wan()
    config = sshd.configure(
        "ServerAliveInterval 1",
        "ServerAliveCountMax 2",
        f"Port {proxy.port}",
        f"HostKeyAlias {sshd.host}",
        name="silent_config",
    )
    connection = reach(config)
    try:
        channel = connection.run("cat > /dev/null")
        # A host with nothing to say answers when it is asked to.
        time.sleep(2.5)
        assert connection.alive
        os.kill(proxy.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(LOST):
            channel.sendall(bytes(1 << 30))
        assert 1 < time.monotonic() - began < 10
        assert not connection.alive
        with pytest.raises(Disconnected, match="kool: nothing came from it for 2 s"):
            connection.run("true")
    finally:
        connection.close()


@pytest.mark.parametrize("who", ["they", "we"])
def test_new_keys_are_agreed_on_while_bytes_flow(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = "RekeyLimit 1M" if who == "they" else "RekeyLimit 1G"
    if who == "we":
        monkeypatch.setattr(_Packets, "REKEY_BYTES", 1 << 20)
    with Sshd(tmp_path, options=[limit, "LogLevel DEBUG1"]) as often, WanProxy(often.port, rtt=0.01) as proxy:
        config = often.configure(f"Port {proxy.port}", f"HostKeyAlias {often.host}", name="far_config")
        data = os.urandom(1 << 20) * 12
        connection = reach(config)
        try:
            channel = connection.run(f"head -c {len(data)}")
            writer = threading.Thread(target=channel.sendall, args=[data])
            writer.start()
            assert b"".join(iter(lambda: channel.recv(1 << 24), b"")) == data
            writer.join()
            channel.close()
        finally:
            connection.close()
        assert often.log.read_text().count("SSH2_MSG_NEWKEYS received") > 5


def test_nothing_reaches_stderr_but_errors(sshd: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
    connection = reach(sshd.config)
    connection.run("sleep 100")
    sshd.kill_connections()
    time.sleep(0.3)
    connection.close()
    sshd_config = sshd.configure("Port 1", name="closed_config")
    fails(sshd_config)
    assert capfd.readouterr() == ("", "")
