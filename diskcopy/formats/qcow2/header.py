# SPDX-License-Identifier: Apache-2.0
"""The qcow2 header: read from a stranger's image with every field bounded, or made for a new one.

Facts are from QEMU's docs/interop/qcow2.txt (below: the specification), limits that the
specification leaves open from QEMU's block/qcow2.h, so that what QEMU opens, we open.
All numbers are big-endian; offsets and sizes are bytes of the image file.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from diskcopy.errors import Corrupt, Unsupported, WrongFormat
from diskcopy.image import Image

MAGIC = b"QFI\xfb"

# incompatible_features: who does not know one of them must not open the image.
DIRTY = 1 << 0
CORRUPT = 1 << 1
DATA_FILE = 1 << 2
COMPRESSION_TYPE = 1 << 3
EXTENDED_L2 = 1 << 4
KNOWN_INCOMPATIBLE = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2

# compatible_features
LAZY_REFCOUNTS = 1 << 0

# autoclear_features
BITMAPS = 1 << 0
DATA_FILE_RAW = 1 << 1

# compression_type
ZLIB = 0
ZSTD = 1
COMPRESSION_NAMES = {ZLIB: "zlib", ZSTD: "zstd"}

# crypt_method
CRYPT_NAMES = {1: "AES", 2: "LUKS"}

# Header extensions
END_OF_EXTENSIONS = 0
BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
DATA_FILE_NAME = 0x44415441

# L1 and L2 entries
COPIED = 1 << 63
COMPRESSED = 1 << 62
ZERO = 1 << 0
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
L1_RESERVED = 0x7F00_0000_0000_01FF
L2_RESERVED = 0x3F00_0000_0000_01FE
# A compressed cluster's length is counted in these.
SECTOR = 512
SUBCLUSTERS = 32

MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
# Subclusters are not smaller than the smallest cluster.
MIN_EXTENDED_CLUSTER_BITS = 14
MAX_REFCOUNT_ORDER = 6
MAX_L1_BYTES = 32 << 20
MAX_REFCOUNT_TABLE_BYTES = 8 << 20
MAX_SNAPSHOTS = 65536
MAX_BACKING_NAME = 1023
MAX_BACKING_FORMAT = 15
MAX_DATA_FILE_NAME = 4095
MAX_OFFSET = (1 << 63) - 1

V2_LENGTH = 72
V3_LENGTH = 104
# With compression_type and its padding: what QEMU writes, and so do we.
NEW_LENGTH = 112

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_FEATURE = struct.Struct(">BB46s")

# (kind, bit, name) as QEMU writes them, so that tools which do not know a feature can name it.
FEATURES = (
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
)


class Header(NamedTuple):
    """What a qcow2 header says; the defaults are those of a new image.

    size: the disk's, in bytes
    l1_entries: of the active L1 table, at l1_offset
    backing_file, backing_format, data_file: as written in the image, None where absent
    """

    size: int
    cluster_bits: int = 16
    l1_offset: int = 0
    l1_entries: int = 0
    refcount_table_offset: int = 0
    refcount_table_clusters: int = 0
    refcount_order: int = 4
    compression: int = ZLIB
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    version: int = 3
    crypt_method: int = 0
    snapshots: int = 0
    snapshots_offset: int = 0

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def refcount_bits(self) -> int:
        return 1 << self.refcount_order

    @property
    def extended_l2(self) -> bool:
        return bool(self.incompatible & EXTENDED_L2)

    @property
    def table_bits(self) -> int:
        """An L2 table has 1 << table_bits entries, of 8 bytes, or 16 with extended L2."""
        return self.cluster_bits - (4 if self.extended_l2 else 3)

    @property
    def l1_needed(self) -> int:
        """L1 entries that cover the whole disk."""
        return -(-self.size >> (self.cluster_bits + self.table_bits))

    def features(self) -> list[str]:
        """The names of the features whose bits are set."""
        words = (self.incompatible, self.compatible, self.autoclear)
        return [name for kind, bit, name in FEATURES if words[kind] >> bit & 1]

    @classmethod
    def parse(cls, storage: Image) -> Header:
        """The header of the image that `storage` holds.

        An image that is encrypted, or marked corrupt, has a header all the same; whoever
        wants to read its disk has to look. Raises WrongFormat where the magic is not
        qcow2's, Unsupported for versions and features that are not known, Corrupt for
        anything that contradicts the specification or QEMU's limits.
        """
        return _Parser(storage).header()

    def to_bytes(self) -> bytes:
        """The version 3 header, its extensions, and the backing file's name.

        Raises Unsupported where they do not fit into the first cluster or its fields.
        """
        backing = os.fsencode(self.backing_file) if self.backing_file is not None else b""
        backing_format = os.fsencode(self.backing_format or "")
        data_file = os.fsencode(self.data_file or "")
        if len(backing) > MAX_BACKING_NAME or len(backing_format) > MAX_BACKING_FORMAT:
            raise Unsupported(
                self.backing_file or "",
                f"a backing file's name has at most {MAX_BACKING_NAME} bytes in qcow2",
            )
        extensions = b""
        if backing_format:
            extensions += _extension(BACKING_FORMAT, backing_format)
        if data_file:
            extensions += _extension(DATA_FILE_NAME, data_file)
        end = _extension(END_OF_EXTENSIONS, b"")
        names = _extension(
            FEATURE_NAMES, b"".join(_FEATURE.pack(kind, bit, name.encode()) for kind, bit, name in FEATURES)
        )
        # The names only help to word messages; clusters of 512 bytes may have no room for them.
        if NEW_LENGTH + len(extensions + names + end + backing) <= self.cluster_size:
            extensions += names
        extensions += end
        backing_offset = NEW_LENGTH + len(extensions) if backing else 0
        if NEW_LENGTH + len(extensions) + len(backing) > self.cluster_size:
            raise Unsupported(
                self.backing_file or self.data_file or "",
                f"the name does not fit into a first cluster of {self.cluster_size} bytes",
                remedy="use larger clusters",
            )
        fixed = _V2.pack(
            MAGIC,
            3,
            backing_offset,
            len(backing),
            self.cluster_bits,
            self.size,
            self.crypt_method,
            self.l1_entries,
            self.l1_offset,
            self.refcount_table_offset,
            self.refcount_table_clusters,
            self.snapshots,
            self.snapshots_offset,
        )
        fixed += _V3.pack(self.incompatible, self.compatible, self.autoclear, self.refcount_order, NEW_LENGTH)
        fixed += bytes([self.compression]) + bytes(NEW_LENGTH - V3_LENGTH - 1)
        return fixed + extensions + backing


def _extension(kind: int, content: bytes) -> bytes:
    return _EXTENSION.pack(kind, len(content)) + content + bytes(-len(content) % 8)


class _Parser:
    """One reading of one header: the first cluster's bytes, and a name for its complaints."""

    def __init__(self, storage: Image) -> None:
        self.name = storage.name
        self.storage = storage
        self.available = storage._size()
        self.content = bytes(storage.read(0, min(NEW_LENGTH, self.available)))

    def header(self) -> Header:
        if self.content[:4] != MAGIC:
            raise WrongFormat(self.name, "is not a qcow2 image")
        if self.available < V2_LENGTH:
            raise self.corrupt(f"is too short for a qcow2 header of {V2_LENGTH} bytes", None)
        (_, version, backing_offset, backing_length, cluster_bits, size, crypt_method, l1_entries,
         l1_offset, refcount_table_offset, refcount_table_clusters, snapshots, snapshots_offset,
        ) = _V2.unpack_from(self.content)  # fmt: skip
        if version not in (2, 3):
            raise Unsupported(self.name, f"is qcow2 of the unknown version {version}", offset=4)
        if not MIN_CLUSTER_BITS <= cluster_bits <= MAX_CLUSTER_BITS:
            raise self.corrupt(f"has cluster_bits {cluster_bits}; 9 to 21 are allowed", 20)
        incompatible = compatible = autoclear = compression = 0
        refcount_order, length = 4, V2_LENGTH
        if version == 3:
            if self.available < V3_LENGTH:
                raise self.corrupt(f"is too short for a qcow2 header of {V3_LENGTH} bytes", None)
            incompatible, compatible, autoclear, refcount_order, length = _V3.unpack_from(
                self.content, V2_LENGTH
            )
            if length < V3_LENGTH or length % 8 or length > 1 << cluster_bits:
                raise self.corrupt(f"has a header_length of {length}", 100)
        self.content = bytes(self.storage.read(0, min(1 << cluster_bits, self.available)))
        if len(self.content) < length:
            raise self.corrupt(f"ends within its header of {length} bytes", len(self.content))
        if length > V3_LENGTH:
            compression = self.content[V3_LENGTH]
        extensions = self.extensions(length, backing_offset)
        if incompatible & ~KNOWN_INCOMPATIBLE:
            self.refuse_unknown(incompatible, extensions.get(FEATURE_NAMES, b""))
        if compression not in COMPRESSION_NAMES:
            raise Unsupported(self.name, f"uses the unknown compression type {compression}", offset=V3_LENGTH)
        if bool(compression) != bool(incompatible & COMPRESSION_TYPE):
            raise self.corrupt(
                "its compression type and the feature bit for it contradict each other", V3_LENGTH
            )
        header = Header(
            size=size,
            cluster_bits=cluster_bits,
            l1_offset=l1_offset,
            l1_entries=l1_entries,
            refcount_table_offset=refcount_table_offset,
            refcount_table_clusters=refcount_table_clusters,
            refcount_order=refcount_order,
            compression=compression,
            incompatible=incompatible,
            compatible=compatible,
            autoclear=autoclear,
            backing_file=self.backing_file(backing_offset, backing_length),
            backing_format=self.string(extensions, BACKING_FORMAT, "backing format", MAX_BACKING_FORMAT),
            data_file=self.string(extensions, DATA_FILE_NAME, "data file name", MAX_DATA_FILE_NAME),
            version=version,
            crypt_method=crypt_method,
            snapshots=snapshots,
            snapshots_offset=snapshots_offset,
        )
        self.check(header)
        return header

    def corrupt(self, reason: str, offset: int | None) -> Corrupt:
        return Corrupt(
            self.name, reason, offset=offset, remedy="the header is damaged: use a backup of the image"
        )

    def extensions(self, start: int, backing_offset: int) -> dict[int, bytes]:
        """The header extensions, to the end mark, the backing file's name, or the cluster's end."""
        found: dict[int, bytes] = {}
        end = len(self.content)
        if backing_offset:
            if backing_offset > end:
                raise self.corrupt("its backing file's name lies outside the first cluster", 8)
            end = backing_offset
        while start + _EXTENSION.size <= end:
            kind, length = _EXTENSION.unpack_from(self.content, start)
            if kind == END_OF_EXTENSIONS:
                break
            if length > end - start - _EXTENSION.size:
                raise self.corrupt(f"has a header extension of {length} bytes, more than fit", start)
            found[kind] = self.content[start + _EXTENSION.size : start + _EXTENSION.size + length]
            start += _EXTENSION.size + length + -length % 8
        return found

    def refuse_unknown(self, incompatible: int, table: bytes) -> None:
        named = {}
        for start in range(0, len(table) - _FEATURE.size + 1, _FEATURE.size):
            kind, bit, name = _FEATURE.unpack_from(table, start)
            if kind == 0:
                named[bit] = name.rstrip(b"\0").decode("ascii", "replace")
        unknown = [bit for bit in range(64) if (incompatible & ~KNOWN_INCOMPATIBLE) >> bit & 1]
        text = ", ".join(repr(named.get(bit, f"incompatible feature bit {bit}")) for bit in unknown)
        raise Unsupported(
            self.name, f"needs {text}", offset=V2_LENGTH, remedy="convert it with the QEMU that made it"
        )

    def backing_file(self, offset: int, length: int) -> str | None:
        if offset == 0:
            return None
        if length > MAX_BACKING_NAME:
            raise self.corrupt(
                f"its backing file's name has {length} bytes, more than {MAX_BACKING_NAME}", 16
            )
        if offset + length > len(self.content):
            raise self.corrupt("its backing file's name lies outside the first cluster", 8)
        # QEMU takes an empty name for none.
        return self.text(self.content[offset : offset + length], "backing file's name", 8) or None

    def string(self, extensions: dict[int, bytes], kind: int, what: str, most: int) -> str | None:
        content = extensions.get(kind)
        if content is None:
            return None
        if len(content) > most:
            raise self.corrupt(f"its {what} has {len(content)} bytes, more than {most}", None)
        return self.text(content, what, None) or None

    def text(self, content: bytes, what: str, offset: int | None) -> str:
        if b"\0" in content:
            raise self.corrupt(f"its {what} contains a zero byte", offset)
        return os.fsdecode(content)

    def check(self, header: Header) -> None:
        """QEMU's limits on what the fields say together."""
        if header.size > MAX_OFFSET:
            raise self.corrupt(f"has a disk size of {header.size} bytes", 24)
        if header.refcount_order > MAX_REFCOUNT_ORDER:
            raise self.corrupt(f"has a refcount_order of {header.refcount_order}; 6 is the most", 96)
        if header.crypt_method and header.crypt_method not in CRYPT_NAMES:
            raise Unsupported(
                self.name, f"is encrypted by the unknown method {header.crypt_method}", offset=32
            )
        if header.extended_l2 and header.cluster_bits < MIN_EXTENDED_CLUSTER_BITS:
            raise self.corrupt(f"has extended L2 entries with cluster_bits {header.cluster_bits}", 20)
        if header.l1_entries * 8 > MAX_L1_BYTES:
            raise self.corrupt(f"has an L1 table of {header.l1_entries} entries", 36)
        if header.l1_entries < header.l1_needed:
            raise self.corrupt(
                f"has an L1 table of {header.l1_entries} entries, its disk needs {header.l1_needed}", 36
            )
        self.check_table(header, "L1 table", header.l1_offset, header.l1_entries * 8, 40)
        refcount_bytes = header.refcount_table_clusters << header.cluster_bits
        if not 0 < refcount_bytes <= MAX_REFCOUNT_TABLE_BYTES:
            raise self.corrupt(f"has a refcount table of {header.refcount_table_clusters} clusters", 56)
        self.check_table(header, "refcount table", header.refcount_table_offset, refcount_bytes, 48)
        if header.snapshots > MAX_SNAPSHOTS:
            raise self.corrupt(f"has {header.snapshots} snapshots; {MAX_SNAPSHOTS} are the most", 60)
        if header.snapshots:
            self.check_table(header, "snapshot table", header.snapshots_offset, 40 * header.snapshots, 64)
        if header.autoclear & DATA_FILE_RAW and not header.incompatible & DATA_FILE:
            raise self.corrupt("has the raw data file feature without a data file", 88)

    def check_table(self, header: Header, what: str, offset: int, length: int, field: int) -> None:
        if offset % header.cluster_size:
            raise self.corrupt(f"its {what} is not aligned to a cluster: {offset}", field)
        if offset + length > self.available:
            raise Corrupt(
                self.name,
                f"its {what} ({length} bytes at {offset}) reaches beyond the file's end, {self.available}",
                offset=field,
                remedy="the file was cut short: copy it again",
            )
