# SPDX-License-Identifier: Apache-2.0
"""What a far side does with the one file that it holds, whichever kind of far side it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Channel(Protocol):
    """The bytes to and from something that runs on the far side.

    OSError is all that a lost connection raises.
    """

    def recv(self, length: int) -> bytes:
        """What has come, up to `length` bytes of it; waits for some. Empty at the end."""

    def sendall(self, data: Buffer) -> None:
        """Send all of `data`."""

    def close(self) -> None:
        """End it. Safe to call again, and where the connection is lost."""


class About(NamedTuple):
    """What is known of a remote file.

    size: bytes; of a block device too
    mtime_ns: when it was last written to, as finely as the far side tells
    inode: tells two names of one file: (device, inode), or None where the far side does not say
    device: it is a block device
    allocated: bytes that it takes there, None where the far side does not say
    """

    size: int
    mtime_ns: int
    inode: tuple[int, int] | None
    device: bool
    allocated: int | None


class Begun(NamedTuple):
    """A file that a far side has begun.

    temporary: its hidden path beside its name; of a block device its own path
    replaced: the (device, inode) of the file whose name it will take; None where there is none,
        or the far side does not say
    """

    temporary: str
    replaced: tuple[int, int] | None


class Far(ABC):
    """One file on a host, through one channel of a connection.

    Every method is safe from several threads at once and answers when it is done there; many
    may be on their way at a time. Every method that asks the far side may raise Disconnected,
    and then has been done or not: all of them may be asked again through a new Far. What fails
    there is raised as `errors.system_failure` has it, with the name and the offset of the file.
    """

    #: the words of `Image.can` that this kind of far side has: "extents", "digest"
    can: frozenset[str] = frozenset()
    #: what is flushed there is on stable storage
    durable: bool = True
    #: tells two starts of the far system, where it says so: what was not flushed before is lost
    boot: str | None = None
    #: how many requests keep the wire busy
    parallel: int = 1

    @abstractmethod
    def open(self, path: str, *, locking: bool) -> About:
        """Open a file or a block device to be read.

        locking: refuse one that a running guest writes to, where the far side can tell
        """

    @abstractmethod
    def create(self, path: str, temporary: str | None) -> Begun:
        """Begin a file that will have the name `path`.

        temporary: that path, where a lost connection left one to go on with. A block device
        is opened to be written in place, and answers its own path. Refuses what NewFile
        refuses: a folder, something else than a regular file, a name without a folder.
        """

    @abstractmethod
    def about(self) -> About:
        """The open file as it is now."""

    @abstractmethod
    def read(self, offset: int, buffer: memoryview, unit: int) -> array[int]:
        """Fill all of `buffer`; the runs of blocks of `unit` bytes that are not all zero, as
        `Image.read_runs` has them."""

    @abstractmethod
    def extents(self, offset: int, end: int) -> tuple[array[int], int]:
        """Where [offset, end) has data: (array('q') start0, end0, ..., how far the answer goes),
        as `_fd.data_ranges`; any part of the range is an answer."""

    @abstractmethod
    def write(self, offset: int, buffer: memoryview) -> None:
        """Write all of `buffer`."""

    @abstractmethod
    def zero(self, offset: int, length: int, punch: bool) -> bool:
        """Make a range zero; False where the far side can only do it by writing zeroes."""

    @abstractmethod
    def resize(self, size: int) -> None:
        """Set the size; what is new reads as zeroes."""

    @abstractmethod
    def flush(self, *, durable: bool) -> None:
        """All that was written is complete there, and where `durable` on stable storage."""

    @abstractmethod
    def forget(self) -> None:
        """What is read next comes from the storage there, not from memory, as far as possible."""

    @abstractmethod
    def commit(self, *, durable: bool) -> None:
        """Give the created file its name at once, and where `durable` flush its folder."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what was created."""

    @abstractmethod
    def digests(self, offset: int, length: int, leaf: int) -> list[bytes]:
        """The SHA-256 of each block of `leaf` bytes of a range, the last padded with zeroes; 32
        zero bytes for one of zeroes. Only where "digest" is in `can`."""

    @abstractmethod
    def close(self) -> None:
        """End the channel. What was created and not committed or aborted stays, to go on with."""
