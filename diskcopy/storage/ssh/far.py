# SPDX-License-Identifier: Apache-2.0
"""What a far side does with the one file that it holds, whichever kind of far side it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from typing import NamedTuple


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


class Far(ABC):
    """One file on a host, through one channel of a connection.

    Every method is safe from several threads at once and answers when it is done there; many
    may be on their way at a time. Every method that asks the far side may raise Disconnected,
    and then has been done or not: all of them may be asked again through a new Far. What fails
    there is raised as `errors.system_failure` has it, with the name and the offset of the file.
    """

    #: the words of `Image.can` that this kind of far side has: "extents", "digest"
    can: frozenset[str] = frozenset()
    #: how many requests keep the wire busy
    parallel: int = 1

    @abstractmethod
    def open(self, path: str) -> About:
        """Open a file or a block device to be read."""

    @abstractmethod
    def create(self, path: str, temporary: str | None) -> str:
        """Begin a file that will have the name `path`; its own hidden path beside it.

        temporary: that path, where a lost connection left one to go on with. A block device
        is opened to be written in place, and answers its own path. Refuses what NewFile
        refuses: a folder, something else than a regular file, a name without a folder.
        """

    @abstractmethod
    def about(self) -> About:
        """The open file as it is now."""

    @abstractmethod
    def read(self, offset: int, buffer: memoryview, unit: int) -> array[int]:
        """Fill all of `buffer`; the runs of blocks of `unit` bytes that are not all zero, as `Image.read_runs`."""

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
    def flush(self) -> None:
        """All that was written is on stable storage there."""

    @abstractmethod
    def commit(self) -> None:
        """Give the created file its name at once, and flush its folder."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what was created."""

    @abstractmethod
    def digests(self, offset: int, length: int, leaf: int) -> list[bytes]:
        """The SHA-256 of each block of `leaf` bytes of a range, the last may be short; for one of
        zeroes an empty string. Only where "digest" is in `can`."""

    @abstractmethod
    def close(self) -> None:
        """End the channel. What was created and not committed or aborted stays, to go on with."""
