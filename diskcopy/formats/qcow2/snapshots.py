# SPDX-License-Identifier: Apache-2.0
"""The list of internal snapshots, for `info`; their disks are not read."""

from __future__ import annotations

import struct
from datetime import datetime, timezone
from typing import Any

from diskcopy.errors import Corrupt
from diskcopy.formats.qcow2.header import Header
from diskcopy.image import Image

# Listed at the most; an image may claim 65536, with names of 64 KiB.
MOST = 1000
_MAX_EXTRA = 1024
_FIXED = struct.Struct(">QIHHIIQII")
_SIZES = struct.Struct(">QQ")


def snapshots(storage: Image, header: Header) -> list[dict[str, Any]]:
    """The first MOST internal snapshots: id, name, date (UTC), the disk's size, the VM state's size.

    The layout is the specification's "Snapshot table entry". Raises Corrupt where the table
    leaves the file or breaks its limits.
    """
    result = []
    offset = header.snapshots_offset
    for _ in range(min(header.snapshots, MOST)):
        fixed = _read(storage, offset, _FIXED.size)
        _, _, id_length, name_length, seconds, _, _, state_size, extra_length = _FIXED.unpack(fixed)
        if extra_length > _MAX_EXTRA:
            raise Corrupt(
                storage.name, f"a snapshot has {extra_length} bytes of extra data", offset=offset + 36
            )
        rest = _read(storage, offset + _FIXED.size, extra_length + id_length + name_length)
        disk_size = header.size
        if extra_length >= _SIZES.size:
            state_size, disk_size = _SIZES.unpack_from(rest)
        identifier = rest[extra_length : extra_length + id_length]
        result.append(
            {
                "id": identifier.decode("utf-8", "replace"),
                "name": rest[extra_length + id_length :].decode("utf-8", "replace"),
                "date": datetime.fromtimestamp(seconds, timezone.utc).isoformat(),
                "size": disk_size,
                "vm_state_size": state_size,
            }
        )
        offset += -(-(_FIXED.size + len(rest)) // 8) * 8
    return result


def _read(storage: Image, offset: int, length: int) -> bytearray:
    if offset + length > storage._size():
        raise Corrupt(storage.name, "the snapshot table reaches beyond the end of the file", offset=offset)
    return storage.read(offset, length)
