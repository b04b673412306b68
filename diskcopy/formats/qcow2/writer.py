# SPDX-License-Identifier: Apache-2.0
"""A new qcow2 image, version 3, written cluster by cluster as a disk's data come in.

The image file is not a valid image before `flush` has written its header, the last thing
it does; what storage of unknown content had at its start is made invalid first.

Threads write side by side: one lock is held while clusters are given their places, none
while data is compressed or written. They do not write into one cluster at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import groupby

from diskcopy.errors import Error, Unsupported, UsageError
from diskcopy.formats.qcow2 import header
from diskcopy.formats.qcow2._place import fill, missing, runs
from diskcopy.formats.qcow2.allocation import Allocation
from diskcopy.formats.qcow2.compression import Compress, Compressed, compressor
from diskcopy.formats.qcow2.geometry import check_size, geometry
from diskcopy.formats.qcow2.header import Header
from diskcopy.formats.qcow2.measure import check_preallocate
from diskcopy.formats.qcow2.tables import Tables, write_table
from diskcopy.image import Block, Image


class Qcow2Writer(Image):
    """The disk inside a qcow2 image that is being made.

    qcow2 counts a disk in sectors of 512 bytes: where `size` is not a multiple, the image
    that is made is larger by up to 511 bytes, which read as zeroes.
    """

    is_zero = True

    def __init__(
        self,
        storage: Image,
        size: int | None,
        *,
        cluster_size: int = 1 << 16,
        compression: str | None = None,
        preallocate: str = "off",
    ) -> None:
        """
        storage: grows ("resize" in its `can`), or is a device, of any content
        size: of the disk, in bytes; None where it is set by `resize` after the last write
        cluster_size: a power of two from 512 to 2 MiB
        compression: None, "zlib" or "zstd"; each cluster can be written once then
        preallocate: "off"; "metadata": every cluster of the disk has its place from the
            start, in a sparse file; "full": and its space

        Raises UsageError for what does not go together, Unsupported for a disk too large
        for its clusters.
        """
        self.name = storage.name
        self.storage = storage
        self._grid = geometry(cluster_size, self.name)
        check_preallocate(preallocate)
        if compression not in (None, "zlib", "zstd"):
            raise UsageError(self.name, f"{compression!r} is not a compression", remedy="use zlib or zstd")
        if preallocate != "off" and (compression or size is None):
            what = "a compressed image" if compression else "a disk whose size is not known"
            raise UsageError(self.name, f"{what} cannot be preallocated")
        if size is not None:
            check_size(self._grid, size, self.name)
        self.size = size
        self.can = frozenset({"write"} | ({"resize"} if size is None else set()) | ({"reread"} & storage.can))
        self._compression = compression
        self._compress = compressor(compression, cluster_size) if compression else None
        self._preallocate = preallocate
        # The rest of a fresh cluster is zero only if its storage is, or it was made so.
        self._whole_clusters = compression is not None or (not storage.is_zero and preallocate == "off")
        self.block = Block(cluster_size if self._whole_clusters else 1, cluster_size)
        # Around allocation and tables, and what follows here.
        self._lock = threading.Lock()
        self._allocation = Allocation(storage, self._grid, compressed=compression is not None)
        self._tables = Tables(storage, self._grid, self._allocation)
        self._begun = False
        self._written_end = 0
        self._hinted = 0
        # (offset, clusters) of the L1 and the refcount table, once they have a place.
        self._l1: tuple[int, int] | None = None
        self._refcount_table = (0, 0)

    def below(self) -> list[Image]:
        return [self.storage]

    def describe(self) -> dict[str, object]:
        """`size` is what the image says: the disk's, rounded up to whole sectors."""
        return {
            "format": "qcow2",
            "size": None if self.size is None else _sectors(self.size),
            "cluster size": self._grid.cluster_size,
            "compression": self._compression,
            "preallocation": self._preallocate,
        }

    # --- writing ---------------------------------------------------------------------

    def _write(self, offset: int, buffer: memoryview) -> None:
        end = offset + buffer.nbytes
        if self._whole_clusters:
            self._check_whole(offset, end)
        if self.size is None:
            check_size(self._grid, end, self.name)
        elif end > self.size:
            # The gate lets a stream's writes through, whatever size it was given meanwhile.
            raise Error(self.name, f"a write up to {end} is beyond the disk of {self.size} bytes")
        if self._compress is not None:
            self._write_compressed(offset, buffer, self._compress)
            return
        pieces = self._place(offset, end)
        for place, start, length in pieces:
            self.storage.write(place, buffer[start - offset : start - offset + length])
        if self._whole_clusters:
            # The rest of the disk's last cluster.
            place, _, length = pieces[-1]
            self.storage.zero(place + length, -end % self._grid.cluster_size, False)

    def _place(self, offset: int, end: int) -> list[tuple[int, int, int]]:
        """Where the bytes of [offset, end) go: (place, start, length) of each piece, `start` being
        the byte of the disk; clusters that have no place are given one."""
        bits, size = self._grid.cluster_bits, self._grid.cluster_size
        entries = self._grid.table_entries
        cluster, stop = offset >> bits, (end - 1 >> bits) + 1
        pieces = []
        with self._lock:
            self._begin()
            if end > self._written_end:
                self._written_end = end
            while cluster < stop:
                index, first = divmod(cluster, entries)
                count = min(stop - cluster, entries - first)
                table = self._tables.get_or_make(index)
                new = missing(table, first, count)
                if new:
                    fill(table, first, count, self._allocation.take(new), size)
                for place, clusters in runs(table, first, count, size):
                    start, run_end = cluster << bits, cluster + clusters << bits
                    from_, to = max(start, offset), min(run_end, end)
                    pieces.append((place + from_ - start, from_, to - from_))
                    cluster += clusters
        return pieces

    def _write_compressed(self, offset: int, buffer: memoryview, compress: Compress) -> None:
        """Write whole clusters: those that compress packed in one piece, the others as they are."""
        size, span = self._grid.cluster_size, self._grid.table_span
        position = 0
        while position < buffer.nbytes:
            # Clusters of one L2 table at a time.
            part = buffer[position : position + span - (offset + position) % span]
            clusters = [part[at : at + size] for at in range(0, part.nbytes, size)]
            if clusters[-1].nbytes < size:
                clusters[-1] = memoryview(bytes(clusters[-1]).ljust(size, b"\0"))
            packed = [compress(cluster) for cluster in clusters]
            packed_place, plain_place = self._place_compressed(offset + position, part.nbytes, packed)
            if packed_place:
                self.storage.write(packed_place, b"".join(filter(None, packed)))
            for first, count in _plain_runs(packed):
                # The places of plain clusters follow one another, whatever lies between them on the disk.
                whole = part[first * size : (first + count) * size]
                self.storage.write(plain_place, whole)
                if whole.nbytes < count * size:
                    self.storage.zero(plain_place + whole.nbytes, count * size - whole.nbytes, False)
                plain_place += count * size
            position += part.nbytes

    def _place_compressed(self, offset: int, length: int, packed: list[Compressed | None]) -> tuple[int, int]:
        """Give clusters of one L2 table their places: where the compressed ones start, and the others."""
        bits = self._grid.cluster_bits
        index, first = divmod(offset >> bits, self._grid.table_entries)
        lengths = [len(data) for data in packed if data is not None]
        plain = len(packed) - len(lengths)
        with self._lock:
            self._begin()
            self._written_end = max(self._written_end, offset + length)
            table = self._tables.get_or_make(index)
            if missing(table, first, len(packed)) < len(packed):
                raise self._written_once(offset)
            packed_place = self._allocation.take_packed(lengths) if lengths else 0
            plain_place = self._allocation.take(plain) if plain else 0
            at, next_plain = packed_place, plain_place
            for entry, data in enumerate(packed, first):
                if data is None:
                    table[entry] = next_plain | header.COPIED
                    next_plain += 1 << bits
                else:
                    table[entry] = self._descriptor(at, len(data))
                    at += len(data)
        return packed_place, plain_place

    def _descriptor(self, place: int, length: int) -> int:
        """The L2 entry of a compressed cluster: its first byte, and how many sectors it reaches into
        after that byte's."""
        sectors = (place + length - 1) // header.SECTOR - place // header.SECTOR
        return header.COMPRESSED | sectors << (62 - (self._grid.cluster_bits - 8)) | place

    def _check_whole(self, offset: int, end: int) -> None:
        """Where whole clusters are needed, writes cover such, or end where the disk does."""
        size = self._grid.cluster_size
        at_end = end == self.size or (self.size is None and end >= self._written_end)
        if offset % size or (end % size and not at_end):
            raise UsageError(
                self.name, f"a write of {end - offset} bytes is not of whole clusters", offset=offset
            )

    def _zero(self, offset: int, length: int, punch: bool) -> bool:
        """What was never written is zero; the rest is made so in its place."""
        with self._lock:
            pieces = list(self._allocated(offset, min(offset + length, self._written_end)))
        for place, piece in pieces:
            self.storage.zero(place, piece, punch and self._preallocate == "off")
        return True

    def _allocated(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """The places, as (offset, length), of what has one in [offset, end)."""
        bits, entries = self._grid.cluster_bits, self._grid.table_entries
        self._begin()
        while offset < end:
            index, first = divmod(offset >> bits, entries)
            table_end = min(end, (index + 1) * self._grid.table_span)
            table = self._tables.get(index)
            start = offset >> bits << bits
            if table is not None:
                count = (table_end - 1 >> bits) + 1 - (start >> bits)
                for place, clusters in runs(table, first, count, self._grid.cluster_size):
                    run_end = start + (clusters << bits)
                    from_, to = max(start, offset), min(run_end, end)
                    if place < 0:
                        raise Unsupported(
                            self.name, "a compressed cluster is written only once", offset=from_
                        )
                    if place:
                        yield place + from_ - start, to - from_
                    start = run_end
            offset = table_end

    def _written_once(self, offset: int) -> Unsupported:
        return Unsupported(self.name, "a compressed cluster can be written only once", offset=offset)

    def _resize(self, size: int) -> None:
        if self._l1 is not None or size < self._written_end:
            reason = "was flushed" if self._l1 is not None else f"was written to up to {self._written_end}"
            raise Error(self.name, f"{reason} and cannot become a disk of {size} bytes")
        check_size(self._grid, size, self.name)
        self.size = size

    def _start_writeback(self, offset: int, length: int) -> None:
        # Places follow the order of writing, not of the disk: whatever is new goes.
        with self._lock:
            start, self._hinted = self._hinted, self._allocation.end
            end = self._hinted
        self.storage.start_writeback(start, end - start)

    # --- beginning and end -------------------------------------------------------------

    def _begin(self) -> None:
        """Before the first write: no old header, and the places of a preallocated disk."""
        if self._begun:
            return
        if not self.storage.is_zero:
            self.storage.write(0, bytes(self._grid.cluster_size))
        if self._preallocate != "off":
            self._allocate_all(self.size or 0)
        self._begun = True

    def _allocate_all(self, size: int) -> None:
        bits, entries = self._grid.cluster_bits, self._grid.table_entries
        clusters = self._grid.clusters(size)
        for index in range(-(-clusters // entries)):
            table = self._tables.get_or_make(index)
            count = min(entries, clusters - index * entries)
            place = self._allocation.take(count)
            fill(table, 0, count, place, 1 << bits)
            if self._preallocate == "full" or not self.storage.is_zero:
                self.storage.zero(place, count << bits, False)

    def _flush(self) -> None:
        """Complete the image: tables and counts first, the header when they are in the storage."""
        with self._lock:
            self._begin()
            if self.size is None:
                self.size = self._written_end
            if self._l1 is None:
                self._place_tables(self.size)
            self._write_metadata()
            if "resize" in self.storage.can:
                self.storage.resize(self._allocation.end)
            self.storage.flush()
            self.storage.write(0, self._header().to_bytes().ljust(self._grid.cluster_size, b"\0"))
            self.storage.flush()

    def _place_tables(self, size: int) -> None:
        """Give the L1 and the refcount table the places they keep, whatever is written after a flush."""
        self._tables.grow(self._grid.l1_entries(size))
        l1 = self._grid.l1_clusters(size)
        l1_offset = self._allocation.take(l1)
        clusters = self._grid.refcount_table_clusters(size)
        self._refcount_table = (self._allocation.take(clusters), clusters)
        self._l1 = (l1_offset, l1)

    def _write_metadata(self) -> None:
        assert self._l1 is not None
        self._tables.write_l2()
        self._tables.write_l1(*self._l1)
        self._allocation.write_counts()
        offset, clusters = self._refcount_table
        write_table(self.storage, offset, self._allocation.blocks, clusters << self._grid.cluster_bits)

    def _header(self) -> Header:
        assert self._l1 is not None
        zstd = self._compression == "zstd"
        return Header(
            size=_sectors(self.size or 0),
            cluster_bits=self._grid.cluster_bits,
            l1_offset=self._l1[0],
            l1_entries=len(self._tables.l1),
            refcount_table_offset=self._refcount_table[0],
            refcount_table_clusters=self._refcount_table[1],
            compression=header.ZSTD if zstd else header.ZLIB,
            incompatible=header.COMPRESSION_TYPE if zstd else 0,
        )

    def _reread(self) -> Image:
        from diskcopy.formats.qcow2.reader import Qcow2

        return Qcow2(self.storage.reread(), None)

    def _commit(self) -> None:
        self.storage.commit()

    def _abort(self) -> None:
        self.storage.abort()

    def _close(self) -> None:
        self.storage.close()


def _plain_runs(packed: list[Compressed | None]) -> Iterator[tuple[int, int]]:
    """The runs (first, count) of clusters that are not compressed."""
    first = 0
    for plain, items in groupby(packed, lambda data: data is None):
        count = len(list(items))
        if plain:
            yield first, count
        first += count


def _sectors(size: int) -> int:
    return -(-size // header.SECTOR) * header.SECTOR
