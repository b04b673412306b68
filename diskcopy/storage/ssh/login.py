# SPDX-License-Identifier: Apache-2.0
"""Being let in: keys of the agent and of files, and what a person at a terminal answers."""

from __future__ import annotations

import getpass
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue

from diskcopy.errors import Unreachable
from diskcopy.storage.ssh.library import paramiko
from diskcopy.storage.ssh.settings import Settings

#: how often a person may err, as NumberOfPasswordPrompts of ssh
_TRIES = 3
#: seconds for a person to answer in
_PATIENCE = 600
#: what was answered, for the connections that come after one that was lost; lives with the process
_answers: dict[str, str] = {}
#: two hosts must not ask at a time
_asking = threading.Lock()


class _Agent(paramiko.agent.AgentSSH):
    """The keys that the agent behind a socket holds; none where there is no agent."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        if path is None:
            return
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(path)
            self._connect(link)  # type: ignore[attr-defined]
        except (OSError, paramiko.SSHException):
            link.close()
            self._keys = ()

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


def may_ask(settings: Settings) -> bool:
    """A person sits at a terminal, and ssh_config does not forbid to ask."""
    if not settings.ask or not (os.isatty(0) or os.isatty(2)):
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _printable(text: str) -> str:
    """A far side's words without what would steer the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _answer(question: str, shown: bool) -> str:
    with _asking:
        if not shown:
            return getpass.getpass(question)
        with open("/dev/tty", "w") as screen, open("/dev/tty") as keyboard:
            screen.write(question)
            screen.flush()
            return keyboard.readline().rstrip("\n")


def _remembered(name: str, question: str) -> str:
    if name not in _answers:
        _answers[name] = _answer(question, False)
    return _answers[name]


def _load(path: str, passphrase: str | None = None) -> paramiko.PKey | None:
    """The key in a file; None where a passphrase is missing or wrong. Raises ValueError for no key."""
    try:
        return paramiko.PKey.from_path(path, passphrase.encode() if passphrase else None)  # type: ignore[arg-type,unused-ignore]
    except (TypeError, paramiko.PasswordRequiredException):
        return None
    except (ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as failure:
        if passphrase or "password" in str(failure).lower():
            return None
        raise ValueError(str(failure)) from None


def _public(path: str) -> bytes | None:
    """The public half that lies beside a key file, or that the file itself is."""
    for place in (path if path.endswith(".pub") else f"{path}.pub",):
        with suppress(OSError, ValueError, IndexError):
            return paramiko.pkey.PublicBlob.from_file(place).key_blob
    return None


class Login:
    """One attempt to be let in; `tried` says how, in words for a person."""

    def __init__(self, transport: paramiko.Transport, settings: Settings) -> None:
        self._transport = transport
        self._settings = settings
        self._agent: _Agent | None = None
        self._tried: list[str] = []

    def run(self) -> None:
        """Log in; raises Unreachable with all that was tried."""
        try:
            methods = self._with_keys()
            if methods and may_ask(self._settings):
                methods = self._with_answers(methods)
            if methods:
                raise self._refused()
        finally:
            if self._agent:
                self._agent.close()

    def _refused(self) -> Unreachable:
        settings = self._settings
        reason = f"does not let {settings.account} in with {', '.join(self._tried) or 'no key at all'}"
        if not self._transport.is_active() and len(self._tried) > 1:
            remedy = "it ended the connection after so many: name one IdentityFile, and IdentitiesOnly yes"
        elif not may_ask(settings):
            remedy = f"see that this gets in without asking anything: {settings.ssh()}"
        else:
            remedy = "check the user's name, and the authorized_keys there"
        return Unreachable(settings.alias, reason, remedy=remedy)

    # --- keys ---

    def _held(self) -> tuple[paramiko.AgentKey, ...]:
        if self._agent is None:
            self._agent = _Agent(self._settings.agent)
        return self._agent.get_keys()

    def _keys(self) -> Iterator[tuple[paramiko.PKey, str]]:
        """The keys in the order in which they are likely to fit, loaded as they are asked for.

        Files that ssh_config names come before other keys of the agent, and those that a
        passphrase locks, if nothing else opens, last.
        """
        settings = self._settings
        held = () if settings.explicit or settings.identities_only else self._held()
        yield from ((key, _agent_key(key)) for key in held)
        locked = []
        for path in settings.identities:
            if not os.path.exists(path) and _public(path) is None:
                continue
            key = None
            try:
                key = None if path.endswith(".pub") else _load(path)
            except (ValueError, OSError) as failure:
                self._tried.append(f"{path} ({failure})")
                continue
            if key is not None:
                yield key, path
                continue
            public = _public(path)
            agents = [one for one in self._held() if one.asbytes() == public]
            if agents:
                yield agents[0], _agent_key(agents[0])
            elif not path.endswith(".pub"):
                locked.append(path)
        if not settings.identities_only:
            yield from ((key, _agent_key(key)) for key in self._held())
        for path in locked:
            key = self._unlocked(path)
            if key is not None:
                yield key, path

    def _unlocked(self, path: str) -> paramiko.PKey | None:
        if not may_ask(self._settings):
            self._tried.append(f"{path} (its passphrase is asked for on a terminal only)")
            return None
        for _ in range(_TRIES):
            passphrase = _remembered(path, f"Passphrase of {path}: ")
            if not passphrase:
                break
            key = _load(path, passphrase)
            if key is not None:
                return key
            del _answers[path]
        _answers.pop(path, None)
        self._tried.append(f"{path} (wrong passphrase)")
        return None

    def _with_keys(self) -> list[str]:
        """The methods that are still to be tried; empty when let in."""
        seen = set()
        for key, words in self._keys():
            if key.asbytes() in seen:
                continue
            seen.add(key.asbytes())
            self._tried.append(words)
            try:
                left = self._transport.auth_publickey(self._settings.user, key)
            except paramiko.BadAuthenticationType as failure:
                return list(failure.allowed_types)
            except paramiko.AuthenticationException:
                if not self._transport.is_active():
                    raise self._refused() from None
                continue
            if "publickey" not in left:
                return list(left)
        if not seen:
            return self._without_any()
        return ["keyboard-interactive", "password"]

    def _without_any(self) -> list[str]:
        """What the host wants, where there is no key to try."""
        try:
            return list(self._transport.auth_none(self._settings.user))
        except paramiko.BadAuthenticationType as failure:
            return list(failure.allowed_types)

    # --- answers ---

    def _with_answers(self, methods: list[str]) -> list[str]:
        # A person takes longer than a host: as long as sshd's own LoginGraceTime, or more.
        self._transport.auth_timeout = _PATIENCE
        for method in ("keyboard-interactive", "password"):
            for _ in range(_TRIES if method in methods else 0):
                try:
                    left = self._interactively() if method == "keyboard-interactive" else self._by_password()
                except paramiko.BadAuthenticationType as failure:
                    methods = list(failure.allowed_types)
                    break
                except paramiko.AuthenticationException:
                    _answers.pop(self._settings.account, None)
                    self._tried.append(
                        "what was answered" if method == "keyboard-interactive" else "a password"
                    )
                    if not self._transport.is_active():
                        raise self._refused() from None
                    continue
                if not left:
                    return []
                methods = list(left)
                break
        return methods

    def _by_password(self) -> list[str]:
        settings = self._settings
        password = _remembered(settings.account, f"Password of {settings.account}: ")
        return list(self._transport.auth_password(settings.user, password, fallback=False))

    def _interactively(self) -> list[str]:
        """Answer all that the host asks.

        paramiko asks in the transport's own thread, where Ctrl-C does not come to and a
        terminal would be left without echo: so the questions are brought here.
        """
        said: SimpleQueue[object] = SimpleQueue()
        answers: SimpleQueue[list[str]] = SimpleQueue()

        def questions(title: str, instructions: str, fields: list[tuple[str, bool]]) -> list[str]:
            said.put((title, instructions, fields))
            return answers.get()

        def converse() -> None:
            try:
                said.put(self._transport.auth_interactive(self._settings.user, questions))
            except Exception as failure:
                said.put(failure)

        asker = threading.Thread(target=converse, name="ssh login", daemon=True)
        asker.start()
        try:
            while True:
                heard = said.get()
                if isinstance(heard, Exception):
                    raise heard
                if isinstance(heard, list):
                    return heard
                assert isinstance(heard, tuple)
                answers.put(self._answers_to(*heard))
        except KeyboardInterrupt:
            self._transport.close()
            raise
        finally:
            answers.put([])
            asker.join()

    def _answers_to(self, title: str, instructions: str, fields: list[tuple[str, bool]]) -> list[str]:
        name = self._settings.account
        words = " ".join(_printable(text).strip() for text in (title, instructions) if text.strip())
        answers = []
        for prompt, shown in fields:
            question = f"{name}: {words + ' ' if words else ''}{_printable(prompt)}"
            # A one-time code is of no use to the next connection, a password is.
            if not shown and "assword" in prompt:
                answers.append(_remembered(name, question))
            else:
                answers.append(_answer(question, shown))
        return answers


def _agent_key(key: paramiko.AgentKey) -> str:
    return f"the agent's {key.comment or key.get_name()}"
