# SPDX-License-Identifier: Apache-2.0
"""Only the host that is known is talked to, and who is refused is told the way that helps."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import Sshd, make_key

from diskcopy.errors import Refused
from diskcopy.storage.ssh.connection import connect
from diskcopy.storage.ssh.location import Location
from diskcopy.storage.ssh.options import SshOptions

KOOL = Location("kool", "/a")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Sshd]:
    """A host with keys of all kinds, that this test may change."""
    with Sshd(tmp_path, host_keys=("ed25519", "ecdsa", "rsa")) as one:
        yield one


def gets_in(config: Path) -> str:
    """Connects; returns the kind of host key that was used."""
    connection = connect(KOOL, SshOptions(config=str(config)))
    assert connection._transport
    kind = connection._transport.get_remote_server_key().get_name()
    connection.close()
    return str(kind)


def refused(config: Path) -> str:
    with pytest.raises(Refused) as failure:
        connect(KOOL, SshOptions(config=str(config)))
    assert "\n" not in str(failure.value)
    return str(failure.value)


def shell(command: str) -> None:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


def fingerprint(key: Path) -> str:
    done = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{key}.pub"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()[1]


@pytest.mark.parametrize("strict", ["", "StrictHostKeyChecking yes", "StrictHostKeyChecking ask"])
def test_an_unknown_host_is_refused_and_the_remedy_helps(strict: str, host: Sshd) -> None:
    host.known_hosts.unlink()
    config = host.configure(*[strict] if strict else [])
    says = refused(config)
    key = f"ED25519 key {fingerprint(host.host_keys[0])}"
    start = f"kool: its {key} is not known; if it is the right one, add it: "
    assert says.startswith(start)
    shell(says.removeprefix(start))
    assert gets_in(config) == "ssh-ed25519"


def test_ssh_itself_is_the_remedy_where_only_it_finds_the_way(host: Sshd) -> None:
    host.known_hosts.unlink()
    config = host.configure("HostKeyAlias cool")
    found = re.search(r"connect once with: (ssh .*)$", refused(config))
    assert found
    shell(found[1].replace("StrictHostKeyChecking=ask", "StrictHostKeyChecking=accept-new") + " true")
    assert host.known_hosts.read_text().startswith("cool ssh-ed25519 ")
    assert gets_in(config) == "ssh-ed25519"


@pytest.mark.parametrize("strict", ["ask", "yes", "accept-new", "no"])
def test_a_changed_key_is_refused_and_the_remedy_helps(strict: str, host: Sshd) -> None:
    host.known_hosts.write_text(f"# mine\n{host.known_hosts.read_text()}")
    host.change_host_keys()
    config = host.configure(f"StrictHostKeyChecking {strict}")
    says = refused(config)
    reason = (
        f"kool: has another host key than line 2 of {host.known_hosts} says: "
        f"its ED25519 key {fingerprint(host.host_keys[0])}; someone may be in between"
    )
    assert says.startswith(reason)
    shell(says.partition("forget the old one: ")[2])
    if strict in ("ask", "yes"):
        assert "is not known; if it is the right one" in refused(config)
    else:
        assert gets_in(config) == "ssh-ed25519"


def test_a_key_of_another_kind_than_the_known_one_is_no_way_in(host: Sshd) -> None:
    host.host_keys = host.host_keys[:1]
    host.stop()
    host.start()
    other = make_key(host.folder / "other", "ecdsa")
    words = other.with_suffix(".pub").read_text().split()
    host.known_hosts.write_text(f"{host.host} {words[0]} {words[1]}\n")
    assert "has another host key than line 1" in refused(host.configure("StrictHostKeyChecking accept-new"))


@pytest.mark.parametrize(
    ("kind", "name"), [("ed25519", "ssh-ed25519"), ("ecdsa", "ecdsa-sha2-nistp256"), ("rsa", "ssh-rsa")]
)
def test_the_key_that_is_known_is_asked_for(kind: str, name: str, host: Sshd) -> None:
    host.know(kind)
    assert gets_in(host.config) == name


def test_hashed_names_are_found(host: Sshd) -> None:
    host.know("rsa")
    shell(f"ssh-keygen -q -H -f {host.known_hosts}")
    assert host.host not in host.known_hosts.read_text()
    assert gets_in(host.config) == "ssh-rsa"


@pytest.mark.parametrize("hashed", ["yes", "no"])
def test_accept_new_remembers(hashed: str, host: Sshd, tmp_path: Path) -> None:
    host.known_hosts.write_text("somewhere ssh-ed25519 AAAA")  # without an end of line
    config = host.configure("StrictHostKeyChecking accept-new", f"HashKnownHosts {hashed}")
    assert gets_in(config) == "ssh-ed25519"
    assert (host.host in host.known_hosts.read_text()) == (hashed == "no")
    assert len(host.known_hosts.read_text().splitlines()) == 2
    assert gets_in(host.configure("StrictHostKeyChecking yes")) == "ssh-ed25519"
    # ssh reads what we wrote.
    shell(f"ssh -F {config} kool true </dev/null")
    assert len(host.known_hosts.read_text().splitlines()) == 2
    new = tmp_path / "not" / "there" / "yet"
    config = host.configure("StrictHostKeyChecking accept-new", f"UserKnownHostsFile {new}")
    gets_in(config)
    assert len(new.read_text().splitlines()) == 1


def test_no_accepts_and_does_not_remember(host: Sshd) -> None:
    host.known_hosts.write_text("")
    assert gets_in(host.configure("StrictHostKeyChecking no")) == "ssh-ed25519"
    assert host.known_hosts.read_text() == ""


def test_patterns_names_without_port_and_several_files_count(host: Sshd, tmp_path: Path) -> None:
    key = " ".join(host.host_keys[0].with_suffix(".pub").read_text().split()[:2])
    first, second = tmp_path / "first hosts", tmp_path / "second"
    first.write_text("")
    config = host.configure(f'UserKnownHostsFile "{first}" {second}')

    def known_as(names: str) -> None:
        second.write_text(f"@cert-authority * {key}\nno line\n{names} {key} a comment\n")

    for names in ("127.0.0.1", "[127.0.0.?]:*", "other,127.*"):
        known_as(names)
        assert gets_in(config) == "ssh-ed25519"
    for names in ("cool", f"[127.0.0.1]:*,!{host.host}", "127.0.0.10", "[127.0.0.1]:1"):
        known_as(names)
        assert "is not known" in refused(config)
    known_as("COOL")
    assert gets_in(host.configure(f"GlobalKnownHostsFile {second}", "HostKeyAlias cool")) == "ssh-ed25519"


def test_revoked_keys_are_refused(host: Sshd) -> None:
    known = host.known_hosts.read_text()
    key = " ".join(host.host_keys[0].with_suffix(".pub").read_text().split()[:2])
    host.known_hosts.write_text(f"{known}@revoked * {key}\n")
    assert f"is revoked by line 4 of {host.known_hosts}" in refused(host.config)
