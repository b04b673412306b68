# SPDX-License-Identifier: Apache-2.0
"""A connection to one remote file that comes back when it drops, and goes on where it was."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from diskcopy.errors import Disconnected, Error, Unreachable, UsageError
from diskcopy.storage.ssh.connection import Connection, connect
from diskcopy.storage.ssh.far import Far
from diskcopy.storage.ssh.location import Location
from diskcopy.storage.ssh.options import SshOptions
from diskcopy.storage.ssh.rate import Limit

log = logging.getLogger("diskcopy")

BACKENDS = ("agent", "sftp")

# How often a lost connection is tried again, and the seconds that this waits at the most.
_TRIES = 5
_LONGEST_WAIT = 16
# Connections that come and go without an answer before that is given up as well.
_MOST_FRUITLESS = 20

Answer = TypeVar("Answer")


class Link:
    """Calls a far side, and where the connection is lost, a new one for the same file."""

    def __init__(self, location: Location, options: SshOptions, begin: Callable[[Far], None]) -> None:
        """
        begin: called with each new far side, to make it hold the file; raises where the file
            is not the one it was
        """
        if options.backend not in (None, *BACKENDS):
            raise UsageError(str(options.backend), "is no way to use SSH", remedy="use agent or sftp")
        self.location = location
        # The kind of far side there is; every connection has the same.
        self.backend = options.backend
        self.limit = Limit(options.rate)
        self._options = options
        self._begin = begin
        self._lock = threading.Lock()
        self._ended = threading.Event()
        # Counts connections, so that of all who lose one the first renews it.
        self._generation = 0
        # Connections lost one after another before anything was answered.
        self._fruitless = 0
        self._connection: Connection | None = None
        self.far = self._connect()

    def call(self, action: Callable[[Far], Answer]) -> Answer:
        """What `action` makes of the far side; it is called again where the connection is lost."""
        while True:
            with self._lock:
                far, generation = self.far, self._generation
            try:
                answer = action(far)
            except Disconnected as lost:
                self._renew(generation, lost)
            else:
                self._fruitless = 0
                return answer

    def close(self) -> None:
        self._ended.set()
        with self._lock:
            self._drop()

    def _renew(self, generation: int, lost: Disconnected) -> None:
        import tenacity

        with self._lock:
            if self._ended.is_set():
                raise lost
            if generation != self._generation:
                return
            self._fruitless += 1
            if self._fruitless > _MOST_FRUITLESS:
                lost.reason += f", and {_MOST_FRUITLESS} connections were before anything came of them"
                raise lost
            log.warning("%s; connecting again", lost)
            self._drop()
            again = tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(Unreachable),
                stop=tenacity.stop_after_attempt(_TRIES) | tenacity.stop_when_event_set(self._ended),
                wait=tenacity.wait_exponential(multiplier=0.2, max=_LONGEST_WAIT),
                sleep=tenacity.sleep_using_event(self._ended),
                reraise=True,
            )
            try:
                self.far = again(self._connect)
            except Unreachable as failure:
                failure.reason = f"{lost.reason}, and {failure.reason} ({_TRIES} tries)"
                raise
            self._generation += 1

    def _connect(self) -> Far:
        if self._ended.is_set():
            raise Disconnected(str(self.location), "is closed")
        self._connection = connect(self.location, self._options)
        try:
            far = self._start(self._connection)
            try:
                self._begin(far)
            except BaseException:
                far.close()
                raise
        except BaseException:
            self._connection.close()
            raise
        return far

    def _start(self, connection: Connection) -> Far:
        """The far side that was asked for, or the best that is there."""
        name = str(self.location)
        if self.backend != "sftp":
            from diskcopy.storage.ssh.agent.far import AgentFar, NoPython, command

            try:
                far: Far = AgentFar(connection.run(command()), name)
            except NoPython:
                if self.backend == "agent":
                    raise Error(
                        name, "there is no python3 on that host", remedy="install it, or use sftp"
                    ) from None
            else:
                self.backend = "agent"
                return far
        from diskcopy.storage.ssh.sftp.far import SftpFar

        try:
            far = SftpFar(connection.subsystem("sftp"), name)
        except Disconnected:
            raise  # that there is none is the other kind of Unreachable
        except Unreachable:
            missing = "no SFTP" if self.backend == "sftp" else "neither python3 nor SFTP"
            raise Error(name, f"that host has {missing}", remedy="install python3 there") from None
        self.backend = "sftp"
        return far

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.far.close()
