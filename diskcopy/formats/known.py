# SPDX-License-Identifier: Apache-2.0
"""Formats that are recognised but not read here: taking one for raw would copy the wrong thing."""

from __future__ import annotations

from diskcopy.errors import Unsupported
from diskcopy.image import Image

# Where each format has its magic. A fixed-size VHD has its footer at the end and is
# a raw disk in front of it, so it is not listed.
_MAGIC = (
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
)


def refuse(storage: Image, first_bytes: bytes) -> None:
    """Raise Unsupported where the image's first bytes are those of a format known by name."""
    for name, offset, magic in _MAGIC:
        if first_bytes[offset : offset + len(magic)] == magic:
            raise Unsupported(
                storage.name,
                f"is a {name} image, which diskcopy does not read",
                remedy="convert it with qemu-img, or copy its bytes as they are with -f raw",
            )
