# SPDX-License-Identifier: Apache-2.0
"""Keys open first, those of the agent too; a person is asked last, on a terminal, and never elsewhere."""

from __future__ import annotations

import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from command import ENVIRONMENT
from sshd import Sshd, make_key

from diskcopy.errors import Unreachable
from diskcopy.storage.ssh.connection import connect
from diskcopy.storage.ssh.library import paramiko
from diskcopy.storage.ssh.location import Location
from diskcopy.storage.ssh.options import SshOptions

KOOL = Location("kool", "/a")

# Opened by a session's leader, a terminal becomes its own.
TERMINAL = "import os; os.close(os.open(os.ttyname(0), os.O_RDWR))"
PROGRAM = """
import sys
from diskcopy.errors import Error
from diskcopy.storage.ssh.connection import connect
from diskcopy.storage.ssh.options import SshOptions
from diskcopy.storage.ssh.location import Location
for _ in range(int(sys.argv[2])):
    try:
        connect(Location("kool", "/a"), SshOptions(config=sys.argv[1])).close()
        print("in")
    except Error as failure:
        print(failure)
"""


class Person:
    """Runs the program at a terminal and answers; `said` is what stood on the screen."""

    def __init__(self, config: Path, times: int = 1) -> None:
        self.screen, theirs = pty.openpty()
        self.said = ""
        self.echo = self._echoes()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TERMINAL + PROGRAM, str(config), str(times)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            start_new_session=True,
            env={**ENVIRONMENT, "SSH_AUTH_SOCK": ""},
        )
        self.terminal = theirs

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.screen)
        os.close(self.terminal)

    def _echoes(self) -> bool:
        return bool(termios.tcgetattr(self.screen)[3] & termios.ECHO)

    def _read(self, seconds: float) -> None:
        if select.select([self.screen], [], [], seconds)[0]:
            self.said += os.read(self.screen, 4096).decode()

    def answers(self, question: str, answer: str, shown: bool = False) -> None:
        deadline = time.monotonic() + 20
        already = self.said.count(question)
        while self.said.count(question) == already:
            assert time.monotonic() < deadline, self.said
            self._read(0.1)
        # A password does not show.
        while self._echoes() != shown:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.write(self.screen, f"{answer}\n".encode() if answer != "\x03" else b"\x03")

    def ends(self) -> list[str]:
        out, _ = self.process.communicate(timeout=20)
        self._read(0.1)
        assert self._echoes() == self.echo
        return str(out).splitlines()


def refused(config: Path) -> str:
    with pytest.raises(Unreachable) as failure:
        connect(KOOL, SshOptions(config=str(config)))
    return str(failure.value)


def gets_in(config: Path) -> bool:
    connection = connect(KOOL, SshOptions(config=str(config)))
    connection.close()
    return True


# --- keys -----------------------------------------------------------------------------


@pytest.fixture
def locked(sshd: Sshd, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A configuration with a key that a passphrase locks, and the key."""
    key = make_key(tmp_path / "locked", passphrase="open sesame")
    authorized = sshd.folder / "authorized_keys"
    before = authorized.read_text()
    authorized.write_text(before + key.with_suffix(".pub").read_text())
    config = tmp_path / "config"
    config.write_text(sshd.config.read_text().replace(str(sshd.key), str(key)))
    yield config, key
    authorized.write_text(before)


def test_a_passphrase_is_asked_for_on_a_terminal_and_once(locked: tuple[Path, Path]) -> None:
    config, key = locked
    with Person(config, 2) as person:
        person.answers(f"Passphrase of {key}: ", "wrong")
        person.answers(f"Passphrase of {key}: ", "open sesame")
        assert person.ends() == ["in", "in"]
        assert "sesame" not in person.said


def test_a_passphrase_is_not_asked_for_elsewhere(locked: tuple[Path, Path]) -> None:
    config, key = locked
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(config), "1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
        timeout=30,
    )
    assert (
        f"with {key} (its passphrase is asked for on a terminal only); see that this gets in" in done.stdout
    )
    assert done.stderr == ""


def test_nothing_is_asked_where_the_configuration_forbids_it(locked: tuple[Path, Path]) -> None:
    config, _ = locked
    config.write_text(f"BatchMode yes\n{config.read_text()}")
    with Person(config) as person:
        assert "is asked for on a terminal only" in person.ends()[0]
        assert person.said == ""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real ssh-agent, without keys."""
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield path
    process.terminate()
    process.wait()


def add(key: Path) -> None:
    done = subprocess.run(["ssh-add", "-q", key], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


def test_the_agent_opens_what_it_holds(agent: Path, sshd: Sshd, tmp_path: Path) -> None:
    text = sshd.config.read_text()
    config = tmp_path / "config"
    config.write_text(text.replace(f"IdentityFile {sshd.key}", "IdentityFile none"))
    assert "with no key at all" in refused(config)
    add(make_key(tmp_path / "other"))
    add(sshd.key)
    # IdentitiesOnly holds back those that no file names.
    assert "with no key at all" in refused(config)
    config.write_text(config.read_text().replace("IdentitiesOnly yes", ""))
    assert gets_in(config)
    config.write_text(text.replace(str(sshd.key), f"{sshd.key}.pub"))
    assert gets_in(config)
    config.write_text(f"IdentityAgent none\n{config.read_text()}")
    assert "with no key at all" in refused(config)
    config.write_text(config.read_text().replace("IdentityAgent none", f"IdentityAgent {agent}"))
    os.environ["SSH_AUTH_SOCK"] = "/nothing/here"
    assert gets_in(config)


def test_the_agent_opens_a_locked_key_without_a_question(agent: Path, locked: tuple[Path, Path]) -> None:
    config, key = locked
    unlocked = ["ssh-keygen", "-q", "-p", "-P", "open sesame", "-N", "", "-f", str(key)]
    subprocess.run(unlocked, check=True, capture_output=True)
    add(key)
    subprocess.run([*unlocked[:4], "", "-N", "open sesame", "-f", str(key)], check=True, capture_output=True)
    assert gets_in(config)


def test_too_many_keys_are_said_to_be_too_many(agent: Path, sshd: Sshd, tmp_path: Path) -> None:
    for number in range(8):
        add(make_key(tmp_path / f"key{number}"))
    config = tmp_path / "config"
    text = sshd.config.read_text().replace("IdentitiesOnly yes", "")
    config.write_text(text)
    # The file that is named comes before all that the agent holds.
    assert gets_in(config)
    config.write_text(text.replace(f"IdentityFile {sshd.key}", "IdentityFile none"))
    assert "it ended the connection after so many: name one IdentityFile, and IdentitiesOnly yes" in refused(
        config
    )


# --- answers --------------------------------------------------------------------------


class Asking(paramiko.ServerInterface):
    """A host that lets in whoever knows the password, and the code where it asks for one."""

    def __init__(self, methods: str, questions: list[tuple[str, bool]], answers: list[str]) -> None:
        self.methods = methods
        self.questions = questions
        self.answers = answers

    def get_allowed_auths(self, username: str) -> str:
        return self.methods

    def check_auth_password(self, username: str, password: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if [password] == self.answers else paramiko.AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if self.methods != "publickey":
            return paramiko.AUTH_FAILED
        self.methods = "keyboard-interactive"
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL

    def check_auth_interactive(
        self, username: str, submethods: str
    ) -> int | paramiko.server.InteractiveQuery:
        query = paramiko.server.InteractiveQuery("Door", "Say\x1b[2J it.")
        for prompt, shown in self.questions:
            query.add_prompt(prompt, shown)
        return query

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return paramiko.AUTH_SUCCESSFUL if responses == self.answers else paramiko.AUTH_FAILED


@pytest.fixture
def asking(sshd: Sshd, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`asking(methods, questions, answers)`: the configuration for a host that asks so."""
    with ExitStack() as ends:

        def listen(methods: str, questions: list[tuple[str, bool]], answers: list[str]) -> Path:
            server = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
            doors: list[paramiko.Transport] = []

            def serve() -> None:
                with suppress(OSError):
                    while True:
                        door = paramiko.Transport(server.accept()[0])
                        door.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(sshd.host_keys[0])))
                        door.start_server(event=threading.Event(), server=Asking(methods, questions, answers))
                        doors.append(door)

            thread = threading.Thread(target=serve)
            thread.start()

            def end() -> None:
                server.shutdown(socket.SHUT_RDWR)
                thread.join()
                for door in doors:
                    door.close()
                    door.join()

            ends.callback(end)
            config = tmp_path / "asking"
            lines = [f"Port {server.getsockname()[1]}", "StrictHostKeyChecking no", "User rich"]
            config.write_text("\n".join([*lines, sshd.config.read_text()]))
            return config

        yield listen


def test_a_password_is_asked_for(asking: Callable[..., Path]) -> None:
    config = asking("password", [], ["hunter2"])
    with Person(config, 2) as person:
        person.answers("Password of rich@127.0.0.1:", "hunter1")
        person.answers("Password of rich@127.0.0.1:", "hunter2")
        assert person.ends() == ["in", "in"]
        assert "hunter" not in person.said


def test_who_errs_too_often_stays_outside(asking: Callable[..., Path]) -> None:
    with Person(asking("password", [], ["hunter2"])) as person:
        for _ in range(3):
            person.answers("Password of rich@127.0.0.1:", "hunter1")
        (line,) = person.ends()
        assert "a password, a password, a password; check the user's name" in line


def test_what_the_host_asks_is_asked(asking: Callable[..., Path]) -> None:
    questions = [("Password: ", False), ("Code: ", True)]
    with Person(asking("keyboard-interactive", questions, ["hunter2", "1234"])) as person:
        person.answers("Door Say [2J it. Password: ", "hunter2")
        person.answers("Code: ", "1234", shown=True)
        assert person.ends() == ["in"]
        assert "\x1b" not in person.said


def test_a_code_after_a_key(asking: Callable[..., Path]) -> None:
    with Person(asking("publickey", [("Code: ", False)], ["1234"]), 2) as person:
        person.answers("Code: ", "1234")
        person.answers("Code: ", "1234")
        assert person.ends() == ["in", "in"]


@pytest.mark.parametrize("methods", ["password", "keyboard-interactive"])
def test_ctrl_c_at_a_question_ends_it_and_leaves_the_terminal_whole(
    methods: str, asking: Callable[..., Path]
) -> None:
    with Person(asking(methods, [("Password: ", False)], ["hunter2"])) as person:
        person.answers("Password", "\x03")
        assert person.ends() == []
        assert "KeyboardInterrupt" in person.said
