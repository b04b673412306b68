# SPDX-License-Identifier: Apache-2.0
"""The one interface: everything that can be copied from or to is an `Image`.

The public methods are the gate. They check ranges and abilities, log one debug line,
supply every fallback, and call the underscore method of the same name, which a storage,
format or layer overrides. Offsets and lengths are bytes. All calls are positional, full
or raising, and safe from several threads at once.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from diskcopy import _zero
from diskcopy.errors import Error, Unsupported
from diskcopy.extents import Extent, Facts, normalised

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

log = logging.getLogger("diskcopy")

_ZEROES = memoryview(bytes(1 << 20))


# A storage's own identity first, then those of what it is a part of: a partition, its
# disk, the file behind a loop device. Each is a kind and two numbers of the kernel's.
Lineage = tuple[tuple[str, int, int], ...]


class Block(NamedTuple):
    """How an image wants to be written, in bytes.

    minimum: writes must start at a multiple of it and end at one, or at the image's end
    preferred: writes of it or of its multiples are cheapest
    """

    minimum: int
    preferred: int


class Piece(NamedTuple):
    """A range of an image that lies as it is in a descriptor.

    start, length: the range, in bytes
    storage: what the descriptor belongs to; its `fileno` is not None
    offset: where the range begins in the descriptor
    """

    start: int
    length: int
    storage: Image
    offset: int


class Image:
    """Anything with a size that can be read at any offset and says where its data are.

    name: what a person calls it, for messages
    size: bytes; None for a stream, whose end is not known before it comes
    block: how it wants to be written
    can: what it is able to do, out of
        "read"      readinto at any offset
        "extents"   knows something about its extents
        "write"     write and zero
        "resize"    its size may change: writes may go beyond it, and `resize` sets it
        "clone"     it may share the blocks of another file (a reflink)
        "reread"    what was written can be read back from its storage
        "digest"    its storage takes digests of its bytes without moving them
        "sequential"  a stream: `read_next` instead of readinto, or writes in order only
    is_zero: reads as zeroes wherever it has not been written since it was opened
    parallel: how many requests at a time keep it busy
    """

    name: str
    size: int | None
    block: Block = Block(1, 64 << 10)
    can: frozenset[str] = frozenset()
    is_zero: bool = False
    parallel: int = 1

    # --- reading ---------------------------------------------------------------------

    def readinto(self, offset: int, buffer: Buffer) -> None:
        """Fill all of `buffer` with the bytes at `offset`, or raise an Error."""
        view = memoryview(buffer).cast("B")
        self._check("read", offset, view.nbytes)
        if view.nbytes:
            self._readinto(offset, view)

    def read_runs(self, offset: int, buffer: Buffer, unit: int) -> array[int]:
        """Fill all of `buffer` with the bytes at `offset`, and find what of them is data.

        Returns the runs of blocks of `unit` bytes that are not all zero: array('q') start0,
        end0, start1, ..., counted from the buffer's start.
        """
        view = memoryview(buffer).cast("B")
        self._check("read", offset, view.nbytes)
        return self._read_runs(offset, view, unit)

    def read_next(self, buffer: Buffer, check: Callable[[], None]) -> int:
        """Fill `buffer` with the next bytes of a stream; how many, fewer only at its end.

        check: called about ten times a second while nothing comes; may raise, to stop waiting
        """
        if "sequential" not in self.can or "write" in self.can:
            raise Unsupported(self.name, "is not a stream to read from")
        return self._read_next(memoryview(buffer).cast("B"), check)

    def read(self, offset: int, length: int) -> bytearray:
        """The `length` bytes at `offset`: readinto for small things, such as headers."""
        buffer = bytearray(length)
        self.readinto(offset, buffer)
        return buffer

    def extents(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """The extents of a range, to the end by default: exactly the range, ascending,
        contiguous, neighbours differ; lazily, so the disk may be of any size."""
        if length is None:
            length = self._size() - offset
        self._check("read", offset, length)
        if "extents" not in self.can:
            return iter([Extent(offset, length, False, False)] if length else [])
        return normalised(self._extents(offset, length), offset, offset + length, self.name)

    def digests(self, offset: int, length: int, leaf: int) -> list[bytes]:
        """The SHA-256 of each block of `leaf` bytes of a range, the last padded with zeroes; 32
        zero bytes for one that is all zero."""
        self._check("read", offset, length)
        if "digest" not in self.can:
            raise Unsupported(self.name, "takes no digests where it lies")
        return self._digests(offset, length, leaf)

    # --- writing ---------------------------------------------------------------------

    def write(self, offset: int, buffer: Buffer) -> None:
        """Write all of `buffer` at `offset`, or raise an Error."""
        view = memoryview(buffer).cast("B")
        self._check("write", offset, view.nbytes)
        if view.nbytes:
            self._write(offset, view)

    def zero(self, offset: int, length: int, punch: bool = True) -> None:
        """Make a range read as zeroes; with `punch`, and where it can, take no space."""
        self._check("write", offset, length)
        if length and not self._zero(offset, length, punch):
            end = offset + length
            while offset < end:
                step = min(len(_ZEROES), end - offset)
                self._write(offset, _ZEROES[:step])
                offset += step

    def resize(self, size: int) -> None:
        """Set the size; what is new reads as zeroes."""
        if "resize" not in self.can:
            raise Unsupported(self.name, "its size cannot be changed")
        self._resize(size)

    def start_writeback(self, offset: int, length: int) -> None:
        """A hint: what was written to the range will not change again and may go to its storage now."""
        self._start_writeback(offset, length)

    def flush(self) -> None:
        """All that was written is complete, and on stable storage."""
        log.debug("%s: flush", self.name)
        self._flush()

    def reread(self) -> Image:
        """The flushed image, opened again to be read from its storage, not from memory.

        The result belongs to this image and ends with it.
        """
        if "reread" not in self.can:
            raise Unsupported(self.name, "cannot be read back")
        return self._reread()

    # --- the end ---------------------------------------------------------------------

    def commit(self) -> None:
        """Make what was created visible under its name, at once. Call flush first."""
        log.debug("%s: commit", self.name)
        self._commit()

    def abort(self) -> None:
        """Leave nothing of what was created. Does nothing after commit."""
        log.debug("%s: abort", self.name)
        self._abort()

    def close(self) -> None:
        """Free what the image holds; without commit, what was created is gone."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Error:
            # A failure to close must not hide the reason for closing.
            if error is None:
                raise

    # --- about -----------------------------------------------------------------------

    def fileno(self) -> int | None:
        """A descriptor whose byte n is this image's byte n, for kernels that copy between
        descriptors; None where there is none."""
        return None

    def locate(self, offset: int, length: int) -> Iterator[Piece]:
        """The pieces of a range that lie as they are in descriptors, ascending, for the same
        kernels. What is left out is zero or has to be read: reading all of it is always right.

        Raises Corrupt where the image's tables are.
        """
        if self.fileno() is not None:
            yield Piece(offset, length, self, offset)

    def below(self) -> list[Image]:
        """The images this one reads: one for a layer, several for an overlay, none for a storage."""
        return []

    def identity(self) -> frozenset[Lineage]:
        """What the bytes of this image and of all below it live on, to find out two names of one thing."""
        return frozenset().union(*(image.identity() for image in self.below()))

    def check_unchanged(self) -> None:
        """Raise Changed where the storage was written to by others since it was opened."""
        for image in self.below():
            image.check_unchanged()

    def warnings(self) -> list[str]:
        """What the caller should know of how this image was read or written, a line each."""
        return []

    def describe(self) -> dict[str, Any]:
        """What `info` says about this image alone: plain values, sizes in bytes."""
        return {}

    # --- what implementations override -------------------------------------------------

    def _readinto(self, offset: int, buffer: memoryview) -> None:
        raise NotImplementedError

    def _read_runs(self, offset: int, buffer: memoryview, unit: int) -> array[int]:
        self._readinto(offset, buffer)
        return _zero.data_runs(buffer, unit)

    def _read_next(self, buffer: memoryview, check: Callable[[], None]) -> int:
        raise NotImplementedError

    def _extents(self, offset: int, length: int) -> Iterator[Facts]:
        """Ascending and contiguous from `offset` or before to the range's end or beyond."""
        raise NotImplementedError

    def _digests(self, offset: int, length: int, leaf: int) -> list[bytes]:
        raise NotImplementedError

    def _write(self, offset: int, buffer: memoryview) -> None:
        raise NotImplementedError

    def _zero(self, offset: int, length: int, punch: bool) -> bool:
        """True where done; False asks the gate to write zeroes."""
        return False

    def _resize(self, size: int) -> None:
        raise NotImplementedError

    def _start_writeback(self, offset: int, length: int) -> None:
        """Most images have nothing that could start early."""

    def _flush(self) -> None:
        """Most images keep nothing back."""

    def _reread(self) -> Image:
        return self

    def _commit(self) -> None:
        """Most images are visible all the time."""

    def _abort(self) -> None:
        """Most images create nothing."""

    def _close(self) -> None:
        """Most images hold nothing."""

    # --- the gate ----------------------------------------------------------------------

    def _size(self) -> int:
        if self.size is None:
            raise Unsupported(self.name, "is a stream, read once from front to back")
        return self.size

    def _check(self, action: str, offset: int, length: int) -> None:
        if action not in self.can:
            raise Unsupported(self.name, f"cannot be {'written' if action == 'write' else 'read'}")
        end = None if action == "write" and "resize" in self.can else self._size()
        if offset < 0 or length < 0 or (end is not None and offset + length > end):
            raise Error(self.name, f"{action} of {length} bytes does not fit in {end} bytes", offset=offset)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: %s %d+%d", self.name, action, offset, length)


class Layer(Image):
    """An image over one other; forwards everything, and a subclass overrides only what it
    changes. `can` may be tightened, never relaxed.

    `fileno` and `locate` are not forwarded: a kernel would read around whatever the layer changes.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.name = image.name
        self.block = image.block
        self.can = image.can
        self.is_zero = image.is_zero

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return self.image.size

    def below(self) -> list[Image]:
        return [self.image]

    def _readinto(self, offset: int, buffer: memoryview) -> None:
        self.image._readinto(offset, buffer)

    def _extents(self, offset: int, length: int) -> Iterator[Facts]:
        return self.image.extents(offset, length)

    def _digests(self, offset: int, length: int, leaf: int) -> list[bytes]:
        return self.image._digests(offset, length, leaf)

    def _write(self, offset: int, buffer: memoryview) -> None:
        self.image._write(offset, buffer)

    def _zero(self, offset: int, length: int, punch: bool) -> bool:
        return self.image._zero(offset, length, punch)

    def _resize(self, size: int) -> None:
        self.image._resize(size)

    def _start_writeback(self, offset: int, length: int) -> None:
        self.image._start_writeback(offset, length)

    def _flush(self) -> None:
        self.image._flush()

    def _reread(self) -> Image:
        return self.image._reread()

    def _commit(self) -> None:
        self.image._commit()

    def _abort(self) -> None:
        self.image._abort()

    def _close(self) -> None:
        self.image._close()


def stack(image: Image) -> Iterator[Image]:
    """The image and all that it reads, top down; what an overlay reads follows it."""
    yield image
    for lower in image.below():
        yield from stack(lower)


def shares_storage(left: frozenset[Lineage], right: frozenset[Lineage]) -> bool:
    """Whether writing one of two images may change the other: one lives on, or inside, the other."""
    return any(a[0] in b or b[0] in a for a in left for b in right)
