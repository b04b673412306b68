# SPDX-License-Identifier: Apache-2.0
"""Reads the disk that a qcow2 image holds: its active state, through its backing chain and data file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from diskcopy.errors import Corrupt, Error, Refused, Unsupported
from diskcopy.extents import Facts
from diskcopy.formats.qcow2 import _tables
from diskcopy.formats.qcow2.compressed import Decompressor, Undecodable
from diskcopy.formats.qcow2.header import (
    COMPRESSION_NAMES,
    CORRUPT,
    CRYPT_NAMES,
    DATA_FILE,
    DATA_FILE_RAW,
    DIRTY,
    Header,
)
from diskcopy.formats.qcow2.lookup import COMPRESSED, DATA, UNALLOCATED, ZERO_ALLOCATED, Lookup, Run
from diskcopy.formats.qcow2.snapshots import snapshots
from diskcopy.formats.qcow2.window import Window
from diskcopy.image import Block, Image, Layer, Piece

# Compressed clusters are fetched together while they follow each other this closely, up to this much.
_FETCH_GAP = 64 << 10
_FETCH_MOST = 4 << 20

Opener = Callable[[str, "str | None"], Image]


class Qcow2(Layer):
    """The disk in a qcow2 image, to be read.

    Unallocated clusters read as the backing image there, as zeroes where there is none or
    it is shorter. References to other images are followed through `opener` alone. The size is
    the header's, to the byte; QEMU leaves out a last part of less than 512 bytes.
    """

    def __init__(self, storage: Image, opener: Opener | None = None) -> None:
        """
        storage: the image file's bytes; closed with this image, but not where this raises
        opener: opens a reference, as written in the image, relative to the image; its second
            argument is the format, None where the image does not say, "raw" for a data file.
            It sees to loops and depth. Without it the image describes itself, and its disk is
            refused if it needs another file.

        Raises WrongFormat, Unsupported and Corrupt as `Header.parse`. With an opener, an image
        whose disk cannot be read (encrypted, marked corrupt) is refused here; without, when
        the disk is read.
        """
        super().__init__(storage)
        self.header = Header.parse(storage)
        self.can = frozenset({"read", "extents"})
        self.block = Block(1, max(64 << 10, self.header.cluster_size))
        self.is_zero = False
        self._lookup = Lookup(storage, self.header)
        self._decompressor = Decompressor(self.header.compression, self.header.cluster_size)
        self._local = threading.local()
        self._backing: Image | None = None
        self._data = storage
        self._opener = opener
        if opener is not None:
            self._refuse_unreadable()
            self._open_references(opener)

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.header.size

    def below(self) -> list[Image]:
        images = [self.image]
        if self._data is not self.image:
            images.append(self._data)
        if self._backing is not None:
            images.append(self._backing)
        return images

    def describe(self) -> dict[str, Any]:
        """Raises Corrupt where the list of internal snapshots is damaged."""
        header = self.header
        external = bool(header.incompatible & DATA_FILE)
        return {
            "format": "qcow2",
            "version": header.version,
            "size": header.size,
            "cluster_size": header.cluster_size,
            "compression": COMPRESSION_NAMES[header.compression],
            "refcount_bits": header.refcount_bits,
            "extended_l2": header.extended_l2,
            "features": header.features(),
            "dirty": bool(header.incompatible & DIRTY),
            "corrupt": bool(header.incompatible & CORRUPT),
            "encryption": CRYPT_NAMES.get(header.crypt_method),
            "backing_file": header.backing_file,
            "backing_format": header.backing_format,
            "data_file": header.data_file if external else None,
            "data_file_raw": bool(header.autoclear & DATA_FILE_RAW),
            "snapshot_count": header.snapshots,
            "snapshots": snapshots(self.image, header),
        }

    # --- opening -----------------------------------------------------------------------

    def _refuse_unreadable(self) -> None:
        header = self.header
        if header.crypt_method:
            raise Unsupported(
                self.name,
                f"is encrypted ({CRYPT_NAMES[header.crypt_method]})",
                offset=32,
                remedy="decrypt it with qemu-img convert",
            )
        if header.incompatible & CORRUPT:
            raise Corrupt(
                self.name,
                "is marked corrupt (incompatible feature bit 1)",
                offset=72,
                remedy="repair a copy of it with qemu-img check -r all",
            )
        if header.incompatible & DATA_FILE and header.data_file is None:
            raise Unsupported(
                self.name,
                "keeps its data in another file that it does not name",
                remedy="name it with qemu-img amend -o data_file=NAME",
            )

    def _refuse_references(self) -> None:
        """Without an opener, a disk that needs another file is not guessed at."""
        for what, reference in (
            ("data file", self.header.data_file if self.header.incompatible & DATA_FILE else None),
            ("backing file", self.header.backing_file),
        ):
            if reference is not None:
                raise Refused(
                    self.name,
                    f"needs its {what} {reference!r}, and references to other files are not followed",
                    remedy="allow them if you trust the image",
                )

    def _open_references(self, opener: Opener) -> None:
        header = self.header
        try:
            if header.incompatible & DATA_FILE and header.data_file is not None:
                self._data = opener(header.data_file, "raw")
            if header.backing_file is not None:
                self._backing = opener(header.backing_file, header.backing_format)
                self._backing._size()
        except BaseException:
            for image in self.below()[1:]:
                # The reason for giving up matters more than how closing went.
                with contextlib.suppress(Error):
                    image.close()
            raise

    def _check_readable(self) -> None:
        if self._opener is None:
            self._refuse_unreadable()
            self._refuse_references()

    # --- extents -----------------------------------------------------------------------

    def _extents(self, offset: int, length: int) -> Iterator[Facts]:
        self._check_readable()
        host_extents = Window(self._data)
        backing_extents = Window(self._backing) if self._backing is not None else None
        for kind, start, count, host, _ in self._lookup.runs(offset, offset + length, reading=False):
            if kind == DATA:
                known = host_extents.last
                if known.start <= host and host + count <= known.start + known.length:
                    yield start, count, known.zero, known.hole
                    continue
                yield from self._data_extents(host_extents, start, count, host)
            elif kind == COMPRESSED:
                yield start, count, False, False
            elif kind == UNALLOCATED and backing_extents is not None:
                yield from self._backing_extents(backing_extents, start, count)
            else:
                yield start, count, True, kind != ZERO_ALLOCATED

    def _data_extents(self, window: Window, start: int, length: int, host: int) -> Iterator[Facts]:
        """Data, but zero where the storage has a hole: preallocated clusters that nobody wrote."""
        inside = max(0, min(length, self._data._size() - host))
        for extent in window.extents(host, inside):
            yield start + extent.start - host, extent.length, extent.zero, extent.hole
        if inside < length:
            # Only reading tells whether this is the end of an unfinished last cluster.
            yield start + inside, length - inside, False, False

    def _backing_extents(self, window: Window, start: int, length: int) -> Iterator[Facts]:
        assert self._backing is not None
        inside = max(0, min(length, self._backing._size() - start))
        yield from window.extents(start, inside)
        if inside < length:
            yield start + inside, length - inside, True, True

    # --- pieces ------------------------------------------------------------------------

    def locate(self, offset: int, length: int) -> Iterator[Piece]:
        self._check_readable()
        end = self._data._size()
        for kind, start, count, host, _ in self._lookup.runs(offset, offset + length, reading=True):
            if kind == DATA:
                yield from _shifted(self._data, start, min(count, end - host), host)
            elif kind == UNALLOCATED and self._backing is not None:
                yield from _shifted(self._backing, start, min(count, self._backing._size() - start), start)

    # --- reading -----------------------------------------------------------------------

    def _readinto(self, offset: int, buffer: memoryview) -> None:
        self._check_readable()
        view = buffer.cast("B")
        together: list[Run] = []
        for run in self._lookup.runs(offset, offset + view.nbytes, reading=True):
            kind, start, length, host, _ = run
            if kind == COMPRESSED:
                if together and not _follows(together, run):
                    self._read_compressed(together, offset, view)
                    together = []
                together.append(run)
                continue
            part = view[start - offset : start - offset + length]
            if kind == DATA:
                self._read_data(start, host, part)
            elif kind == UNALLOCATED and self._backing is not None:
                self._read_backing(self._backing, start, part)
            else:
                _tables.clear(part)
        if together:
            self._read_compressed(together, offset, view)

    def _read_data(self, start: int, host: int, part: memoryview) -> None:
        end = self._data._size()
        if host + part.nbytes > end:
            # The last cluster of a file need not be written to its end: QEMU reads zeroes there.
            # It does so however far beyond the end a cluster is; we call that a cut file.
            if host + part.nbytes > -(-end // self.header.cluster_size) * self.header.cluster_size:
                raise self._lookup.corrupt(
                    f"points to {host}, beyond the end of {self._data.name}, {end}", start
                )
            inside = max(0, end - host)
            _tables.clear(part[inside:])
            part = part[:inside]
        self._data.readinto(host, part)

    def _read_backing(self, backing: Image, start: int, part: memoryview) -> None:
        inside = max(0, min(part.nbytes, backing._size() - start))
        if inside:
            backing.readinto(start, part[:inside])
        _tables.clear(part[inside:])

    def _read_compressed(self, runs: list[Run], offset: int, view: memoryview) -> None:
        """Clusters whose compressed bytes lie near each other, fetched with one read."""
        size = self.header.cluster_size
        first = runs[0][3]
        fetched: memoryview | None = None
        for _, start, length, host, stored in runs:
            cluster = start & -size
            content = self._remembered(cluster) if length < size else None
            if content is None:
                if fetched is None:
                    fetched = self._fetch(start, first, max(run[3] + run[4] for run in runs))
                try:
                    content = memoryview(
                        self._decompressor.cluster(fetched[host - first : host - first + stored])
                    )
                except Undecodable as wrong:
                    raise self._lookup.corrupt(f"points to {host}, which {wrong}", start) from None
                if length < size:
                    self._local.cluster = cluster, content
            view[start - offset : start - offset + length] = content[
                start - cluster : start - cluster + length
            ]

    def _remembered(self, cluster: int) -> memoryview | None:
        """The cluster that this thread last needed only a part of: it may want the rest next."""
        number, content = getattr(self._local, "cluster", (None, None))
        return content if number == cluster else None

    def _fetch(self, start: int, first: int, end: int) -> memoryview:
        """The storage's bytes [first, end), fewer at its end, in this thread's own buffer."""
        # The last sector of a compressed cluster may not be written to its end.
        end = min(end, self.image._size())
        if first >= end:
            raise self._lookup.corrupt(f"points to {first}, beyond the end of the file, {end}", start)
        buffer: bytearray = getattr(self._local, "buffer", bytearray())
        if len(buffer) < end - first:
            buffer = self._local.buffer = bytearray(max(1 << 20, end - first))
        view = memoryview(buffer)[: end - first]
        self.image.readinto(first, view)
        return view

    def _reread(self) -> Image:
        for image in self.below():
            image.reread()
        return self

    def _close(self) -> None:
        with contextlib.ExitStack() as closing:
            for image in self.below():
                closing.callback(image.close)


def _shifted(image: Image, start: int, length: int, offset: int) -> Iterator[Piece]:
    """The pieces of `image` from `offset`, as those of an image in which they lie at `start`."""
    if length > 0:
        for piece in image.locate(offset, length):
            yield Piece(start + piece.start - offset, piece.length, piece.storage, piece.offset)


def _follows(runs: list[Run], run: Run) -> bool:
    previous = runs[-1]
    return (
        previous[3] <= run[3] <= previous[3] + previous[4] + _FETCH_GAP
        and run[3] + run[4] - runs[0][3] <= _FETCH_MOST
    )
