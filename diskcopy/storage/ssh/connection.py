# SPDX-License-Identifier: Apache-2.0
"""One SSH connection, made as the user's ssh_config says; commands and subsystems run through it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from diskcopy.errors import Disconnected, Error, Unreachable, UsageError
from diskcopy.storage.ssh import settings as ssh_config
from diskcopy.storage.ssh import streams
from diskcopy.storage.ssh.channel import SshChannel
from diskcopy.storage.ssh.far import Channel
from diskcopy.storage.ssh.known_hosts import KnownHosts
from diskcopy.storage.ssh.library import paramiko
from diskcopy.storage.ssh.location import Location
from diskcopy.storage.ssh.login import Login
from diskcopy.storage.ssh.options import SshOptions
from diskcopy.storage.ssh.settings import Settings

#: what the far side may send before it is told to go on: 16 MiB are 1 Gbit/s at 130 ms
WINDOW = 16 << 20
#: the largest packet that we take; sshd cuts at this, and at what it has read
_PACKET = 256 << 10
#: encrypted and authenticated in one pass: 330-396 MB/s where aes-ctr and a MAC make 260-285
_FAST = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_DEEPEST_JUMP = 8
#: what the methods of a channel raise when the connection is gone; a `send` may also succeed then
LOST = (paramiko.SSHException, EOFError, OSError)


class _Packets(paramiko.packet.Packetizer):
    """Notes when something came last, and keeps its keys for as long as OpenSSH does.

    paramiko asks for new keys every 512 MiB, and nothing crosses the wire meanwhile. OpenSSH
    does after 2^32 blocks, 64 GiB of AES (RFC 4344, 3.2), whatever the mode, and asks by itself;
    we ask at half of that.
    """

    REKEY_BYTES = 32 << 30

    def __init__(self, stream: socket.socket) -> None:
        super().__init__(stream)
        self.heard = time.monotonic()

    def read_message(self) -> tuple[int, paramiko.Message]:
        message = super().read_message()
        self.heard = time.monotonic()
        return message


class _Transport(paramiko.Transport):
    """Answers in its own thread when new keys are agreed on, where paramiko would wait for them there.

    A channel that the far side closes after we asked for new keys is answered in the thread that
    has to agree on them: it waits for itself, 30 s long, and the connection is lost.
    """

    def __init__(self, stream: streams.Drained) -> None:
        super().__init__(
            stream,  # type: ignore[arg-type]
            default_window_size=WINDOW,
            default_max_packet_size=_PACKET,
            packetizer_class=_Packets,
        )
        self._held: list[paramiko.Message] = []

    def _send_user_message(self, data: paramiko.Message) -> None:
        # Only this thread clears and sets it, so for this thread it stays as it is.
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._held.append(data)
        else:
            super()._send_user_message(data)  # type: ignore[misc]

    def _parse_newkeys(self, message: paramiko.Message) -> None:
        super()._parse_newkeys(message)  # type: ignore[misc]
        held, self._held = self._held, []
        for data in held:
            self._send_user_message(data)


class Connection:
    """A host that let us in; channels of it may be used by several threads.

    name: the host as typed
    lost: why it ended, where it did not end because it was closed
    """

    def __init__(self, settings: Settings, through: Connection | None) -> None:
        self.name = settings.alias
        self.lost: str | None = None
        self._settings = settings
        self._through = through
        self._proxy: streams.Proxy | None = None
        self._transport: paramiko.Transport | None = None
        self._stream: streams.Drained | None = None
        self._ended = threading.Event()
        self._watch: threading.Thread | None = None

    # --- getting there ---

    def _connect(self, compression: bool) -> None:
        transport = self._transport = self._made(compression)
        known = KnownHosts(self._settings)
        options = transport.get_security_options()
        options.key_types = known.first(tuple(options.key_types))
        self._negotiate(transport)
        known.check(transport.get_remote_server_key())
        transport.auth_timeout = self._settings.timeout
        Login(transport, self._settings).run()
        self._watch_over(transport)

    def _made(self, compression: bool) -> paramiko.Transport:
        stream = self._opened()
        self._stream = stream
        transport = _Transport(stream)
        transport.name = f"ssh {self.name}"
        transport.banner_timeout = transport.handshake_timeout = self._settings.timeout
        options = transport.get_security_options()
        # Those with CBC and 3DES are broken or slow, and no sshd of this decade lacks the others.
        counting = [one for one in options.ciphers if one.endswith("-ctr")]
        options.ciphers = tuple([one for one in _FAST if one in options.ciphers] + counting)
        transport.use_compression(compression or self._settings.compression)
        return transport

    def _opened(self) -> streams.Drained:
        settings = self._settings
        if self._through is not None:
            return streams.Drained(self._through._tunnel(settings.host, settings.port, self.name), WINDOW)
        if settings.proxy_command is not None:
            self._proxy = streams.Proxy(settings.proxy_command, settings)
            return streams.Drained(self._proxy.socket, streams.ROOM)
        return streams.Drained(streams.tcp(settings), streams.ROOM)

    def _negotiate(self, transport: paramiko.Transport) -> None:
        done = threading.Event()
        # Not waited for by start_client itself, which gives up in silence.
        transport.start_client(event=done)
        settled = done.wait(self._settings.timeout)
        if settled and transport.is_active():
            return
        problem = transport.get_exception()
        account = self._settings.account.partition("@")[2]
        complaint = self._proxy.complaint() if self._proxy else ""
        if complaint:
            reason, remedy = f"its ProxyCommand fails: {complaint}", "run it by hand"
        elif not settled:
            reason = f"{account} does not answer within {self._settings.timeout:g} s"
            remedy = "see that an sshd listens on that port; ConnectTimeout waits longer"
        elif isinstance(problem, paramiko.ssh_exception.IncompatiblePeer):
            reason = f"{account} and we have no algorithm in common: {problem}"
            remedy = "it may be too old"
        elif problem is None or isinstance(problem, (EOFError, OSError)) or not transport.remote_version:
            reason = f"{account} does not speak SSH, or hangs up at once"
            remedy = "see that an sshd listens on that port, and lets this machine in"
        else:
            reason, remedy = f"{account} and we do not understand each other: {problem}", None
        raise Unreachable(self.name, " ".join(reason.split()), remedy=remedy)

    # --- staying there ---

    def _watch_over(self, transport: paramiko.Transport) -> None:
        """Ask for a sign of life when nothing comes, and end the connection when none does.

        paramiko's own keepalive wants no answer, so it never notices a dead peer.
        """
        interval = self._settings.alive_interval
        if not interval:
            return
        packets = transport.packetizer
        assert isinstance(packets, _Packets)
        asked = 0.0
        question = paramiko.Message()
        question.add_byte(b"\x50")  # SSH_MSG_GLOBAL_REQUEST
        question.add_string("keepalive@openssh.com")
        question.add_boolean(True)

        def ask() -> None:
            # Called by the transport's thread whenever it has waited for 0.1 s in vain.
            nonlocal asked
            now = time.monotonic()
            # Nothing may be sent while keys are exchanged (RFC 4253, 7.1).
            if now - max(packets.heard, asked) >= interval and transport.clear_to_send.is_set():
                asked = now
                packets.send_message(question)

        packets.set_keepalive(0.001, ask)  # type: ignore[arg-type,unused-ignore]
        self._watch = threading.Thread(
            target=self._wait_for_silence, name=f"ssh {self.name} alive", daemon=True
        )
        self._watch.start()

    def _wait_for_silence(self) -> None:
        # A thread of its own, for the transport's may hang in a write to the dead peer.
        assert self._transport is not None
        packets = self._transport.packetizer
        assert isinstance(packets, _Packets)
        while self._transport.is_active():
            silent = time.monotonic() - packets.heard
            if silent >= self._settings.alive:
                self.lost = f"nothing came from it for {self._settings.alive:g} s"
                self._hang_up()
                return
            if self._ended.wait(min(self._settings.alive - silent, self._settings.alive_interval)):
                return

    def _hang_up(self) -> None:
        assert self._stream is not None
        assert self._transport is not None
        # Wakes a thread that reads, which closing alone does not.
        with suppress(*LOST):
            self._stream.shutdown(socket.SHUT_RDWR)
        self._transport.close()

    @property
    def alive(self) -> bool:
        """It stands, as far as we have heard."""
        return self._transport is not None and self._transport.is_active()

    # --- being there ---

    def run(self, command: str) -> Channel:
        """Start a command through the shell there; raises Disconnected, or Unreachable if it is refused."""
        channel = self._session()
        try:
            # Not all paths are UTF-8.
            channel.exec_command(command.encode("utf-8", "surrogateescape"))
        except LOST as failure:
            channel.close()
            raise self._failed("runs no command for us", failure) from None
        return SshChannel(channel)

    def subsystem(self, name: str) -> Channel:
        """Start a subsystem, "sftp"; raises Disconnected, or Unreachable if there is none."""
        channel = self._session()
        try:
            channel.invoke_subsystem(name)
        except LOST as failure:
            channel.close()
            raise self._failed(f"has no subsystem {name}", failure) from None
        return SshChannel(channel)

    def _session(self) -> paramiko.Channel:
        assert self._transport is not None
        try:
            return self._transport.open_session(timeout=self._settings.timeout)
        except LOST as failure:
            raise self._failed("opens no session for us", failure) from None

    def _tunnel(self, host: str, port: int, name: str) -> paramiko.Channel:
        assert self._transport is not None
        try:
            return self._transport.open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=self._settings.timeout
            )
        except LOST as failure:
            if not self.alive:
                raise self._failed("", failure) from None
            words = f"{self.name}, the host to jump from, cannot connect to {host} port {port}"
            remedy = "see that the host is up, that sshd runs there, and that the jump host may forward"
            raise Unreachable(name, words, remedy=remedy) from None

    def _failed(self, refusal: str, failure: Exception) -> Error:
        if self.alive:
            return Unreachable(self.name, f"{refusal}: {failure}", remedy="look into the log of its sshd")
        return self.disconnected()

    def disconnected(self) -> Disconnected:
        """The error for a connection that is gone, with the reason where one is known."""
        return Disconnected(self.name, self.lost or "the connection was lost")

    def close(self) -> None:
        """End it, and all that runs through it. Safe to call again."""
        self._ended.set()
        if self._transport is not None:
            # Its timer would hold the process up for as long as the handshake might have taken.
            self._transport.packetizer.complete_handshake()
            self._hang_up()
            if self._transport.ident is not None:
                self._transport.join()
        if self._stream is not None:
            self._stream.close()
        if self._watch is not None:
            self._watch.join()
        if self._proxy is not None:
            self._proxy.close()
        if self._through is not None:
            self._through.close()


def _connect(settings: Settings, options: SshOptions, depth: int) -> Connection:
    through = None
    if settings.jump:
        if depth == _DEEPEST_JUMP:
            raise UsageError(settings.alias, "is behind too many hosts to jump from; is it behind itself?")
        host, user, port, others = ssh_config.hops(settings)
        hop = ssh_config.read(host, user, port, options.config)
        # As ssh -J: those before the last hop lead to it, and only without any it has its own.
        through = _connect(hop._replace(jump=others or hop.jump), options, depth + 1)
    connection = Connection(settings, through)
    try:
        connection._connect(options.compression)
    except BaseException:
        connection.close()
        raise
    return connection


def connect(location: Location, options: SshOptions) -> Connection:
    """Connect to the host of `location` and log in.

    Raises UsageError for a configuration that makes no sense, Refused for a host key that is
    unknown or has changed, and Unreachable where the host does not answer or does not let us in.
    """
    return _connect(ssh_config.read(location.host, location.user, location.port, options.config), options, 0)
