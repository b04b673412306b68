# SPDX-License-Identifier: Apache-2.0
"""Remote files as images: one to read, and one in the making that appears when it is complete."""

from __future__ import annotations

import logging
import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator

from diskcopy.errors import Changed, Error, NotFound, Unreachable
from diskcopy.extents import Facts
from diskcopy.image import Block, Image, Lineage
from diskcopy.storage.ssh.agent import program
from diskcopy.storage.ssh.far import About, Far
from diskcopy.storage.ssh.link import Link
from diskcopy.storage.ssh.location import Location
from diskcopy.storage.ssh.options import SshOptions

log = logging.getLogger("diskcopy")

# Zeroes are looked for in blocks of this many bytes where nobody asks for others.
_UNIT = 4096

# Bytes asked for at a time after a connection was lost.
_PIECE = 256 << 10

# Answers about extents that are kept: what several workers ask about is close together.
_WINDOWS = 4


class _Remote(Image):
    """What a file that is read and one that is written have in common."""

    block = Block(1, 4096)
    link: Link

    @property
    def parallel(self) -> int:  # type: ignore[override]
        return self.link.far.parallel

    def _readinto(self, offset: int, buffer: memoryview) -> None:
        self._read_runs(offset, buffer, _UNIT)

    def _read_runs(self, offset: int, buffer: memoryview, unit: int) -> array[int]:
        with self.link.limit.held(buffer.nbytes) as held:
            runs = self._read_whatever_comes(offset, buffer, unit)
            if "extents" in self.link.far.can:
                # Such a far side does not send zeroes.
                held.used = sum(runs[1::2]) - sum(runs[::2])
            return runs

    def _read_whatever_comes(self, offset: int, buffer: memoryview, unit: int) -> array[int]:
        """One request, and where the connection is lost small ones for the rest: what has come by
        a link that breaks all the time is kept."""
        runs: array[int] = array("q")
        done, step = 0, buffer.nbytes

        def read(far: Far) -> None:
            nonlocal done, step
            this, step = step, max(unit, _PIECE - _PIECE % unit)
            while done < buffer.nbytes:
                part = buffer[done : done + this]
                found = far.read(offset + done, part, unit)
                if runs and found and runs[-1] == done + found[0]:
                    runs.pop()
                    found.pop(0)
                runs.extend(done + bound for bound in found)
                done += part.nbytes

        self.link.call(read)
        return runs

    def _extents(self, offset: int, length: int) -> Iterator[Facts]:
        end = offset + length
        while offset < end:
            _, reached, pairs = self._window(offset, end)
            position = offset
            # An odd index is inside a range: its data begin before the offset.
            for index in range(bisect_right(pairs, offset) & ~1, len(pairs), 2):
                low, high = max(position, pairs[index]), pairs[index + 1]
                if low > position:
                    yield position, low - position, True, True
                yield low, high - low, False, False
                position = high
                if position >= end:
                    return
            if reached > position:
                yield position, reached - position, True, True
            offset = reached

    def _window(self, offset: int, end: int) -> tuple[int, int, array[int]]:
        """What the far side says about a range that begins at or before `offset`: (start, end,
        ranges of data)."""
        pairs, reached = self.link.call(lambda far: far.extents(offset, end))
        if reached <= offset:
            raise Error(self.name, "the far side said nothing about its extents", offset=offset)
        return offset, reached, pairs

    def _digests(self, offset: int, length: int, leaf: int) -> list[bytes]:
        return self.link.call(lambda far: far.digests(offset, length, leaf))

    def _about(self) -> About:
        return self.link.call(lambda far: far.about())

    def _lineage(self, inode: tuple[int, int] | None, *, device: bool) -> frozenset[Lineage]:
        boot, location = self.link.far.boot, self.link.location
        if boot is None or inode is None:
            # Nothing is told of inodes, or there is no file yet; one name of one file is found out at least.
            return frozenset({((f"{location.host}:{location.port}{location.path}", 0, 0),)})
        kind = "device" if device else "inode"
        # A file of this host has one identity, by whichever way it is reached.
        if boot != program.boot():
            return frozenset({((f"{kind} of {boot}", *inode),)})
        numbers = (os.major(inode[1]), os.minor(inode[1])) if device else inode
        return frozenset({((kind, *numbers),)})

    def describe(self) -> dict[str, object]:
        about = self._about()
        return {
            "storage": "ssh",
            "host": self.link.location.host,
            "far side": self.link.backend,
            "size": about.size,
            "allocated": about.allocated,
        }

    def _close(self) -> None:
        self.link.close()


class RemoteFile(_Remote):
    """A file or block device on another host, to be read."""

    def __init__(
        self,
        location: Location,
        options: SshOptions,
        *,
        locking: bool = True,
    ) -> None:
        """Raises Unreachable, NotFound, NotPermitted, or Refused where a guest writes to it."""
        self.name = str(location)
        self._path = location.path
        self._locking = locking
        self._known: About | None = None
        self._lock = threading.Lock()
        self._windows: list[tuple[int, int, array[int]]] = []
        self.link = Link(location, options, self._begin)
        self.size = self._opened().size
        self.can = frozenset({"read"} | self.link.far.can)

    def _begin(self, far: Far) -> None:
        about = far.open(self._path, locking=self._locking)
        if self._known is None:
            self._known = about
        self._compare(about)

    def _opened(self) -> About:
        """The file as it was when it was opened."""
        assert self._known is not None
        return self._known

    def _compare(self, about: About) -> None:
        if about[:3] != self._opened()[:3]:
            raise Changed(
                self.name, "was written to while it was read", remedy="stop what writes to it, and copy again"
            )

    def warnings(self) -> list[str]:
        if "extents" in self.can:
            return []
        return [f"{self.name}: zeroes crossed the wire too: without python3 there nothing finds them before"]

    def check_unchanged(self) -> None:
        self._compare(self._about())

    def identity(self) -> frozenset[Lineage]:
        return self._lineage(self._opened().inode, device=self._opened().device)

    def _window(self, offset: int, end: int) -> tuple[int, int, array[int]]:
        # A source does not change while it is read: an answer is good for all who ask.
        with self._lock:
            for window in self._windows:
                if window[0] <= offset < window[1]:
                    return window
            window = super()._window(offset, self._size())
            self._windows = [window, *self._windows[: _WINDOWS - 1]]
            return window


class NewRemoteFile(_Remote):
    """A file in the making on another host, hidden beside its name until `commit`; or a block
    device there, which is written in place.

    Where the connection is lost and not found again, or this process is killed, the hidden
    file stays there: its host cannot know whether somebody comes back for it.
    """

    def __init__(
        self,
        location: Location,
        options: SshOptions,
        *,
        size: int | None = None,
        durable: bool = True,
    ) -> None:
        """
        size: bytes; None where the writer will `resize` it
        durable: `flush` waits for stable storage there
        """
        self.name = str(location)
        self._path = location.path
        self._durable = durable
        self._temporary: str | None = None
        self._replaced: tuple[int, int] | None = None
        self._begun: About | None = None
        self._finished: About | None = None
        self._boot: str | None = None
        self._done = False
        self.link = Link(location, options, self._begin)
        device = self._started().device
        self.is_zero = not device
        self.size = self._started().size if device else size
        abilities = {"read", "write", "reread"} | self.link.far.can
        if not device and size is None:
            abilities.add("resize")
        self.can = frozenset(abilities)
        try:
            if not device and size is not None:
                self._resize(size)
        except BaseException:
            self.close()
            raise

    def _begin(self, far: Far) -> None:
        try:
            self._temporary, self._replaced = far.create(self._path, self._temporary)
        except NotFound:
            if self._begun is None:
                raise
            self._recognise_finished(far)
            return
        about = far.about()
        if self._begun is None:
            self._begun, self._boot = about, far.boot
        elif about.inode != self._begun.inode:
            raise Changed(self.name, "the file in the making was replaced by another", remedy="copy again")
        elif far.boot != self._boot:
            raise Changed(self.name, "that host was started anew meanwhile", remedy="copy again")

    def _started(self) -> About:
        """The file in the making as it was at first."""
        assert self._begun is not None
        return self._begun

    def _recognise_finished(self, far: Far) -> None:
        """The answer to a commit can be lost with the connection: the file has its name then."""
        gone = Changed(self.name, "the file in the making is gone", remedy="copy again")
        if self._finished is None:
            raise gone
        try:
            found = far.open(self._path, locking=False)
        except NotFound:
            raise gone from None
        # Without inodes: who else's file has this size, written in this second, where ours was?
        if found[:3] != self._finished[:3]:
            raise gone
        self._done = True

    def warnings(self) -> list[str]:
        if self.link.far.durable or not self._durable:
            return []
        return [f"{self.name}: that server cannot say when the file is on stable storage"]

    def identity(self) -> frozenset[Lineage]:
        """Of the device that is written to, or the file whose name is taken."""
        return self._lineage(self._replaced, device=self._started().device)

    def _write(self, offset: int, buffer: memoryview) -> None:
        with self.link.limit.held(buffer.nbytes):
            self.link.call(lambda far: far.write(offset, buffer))

    def _zero(self, offset: int, length: int, punch: bool) -> bool:
        return self.link.call(lambda far: far.zero(offset, length, punch))

    def _resize(self, size: int) -> None:
        self.link.call(lambda far: far.resize(size))
        self.size = size

    def _flush(self) -> None:
        self.link.call(lambda far: far.flush(durable=self._durable))

    def _reread(self) -> Image:
        self.link.call(lambda far: far.forget())
        return self

    def _commit(self) -> None:
        self._finished = self._about()
        # Renewing the connection may find that it was done.
        self.link.call(lambda far: None if self._done else far.commit(durable=self._durable))
        self._done = True

    def _abort(self) -> None:
        if not self._done:
            self.link.call(lambda far: far.abort())
            self._done = True

    def _close(self) -> None:
        try:
            self._abort()
        except Unreachable as failure:
            log.warning("%s: %s stays there", failure, self._temporary)
        finally:
            self.link.close()
