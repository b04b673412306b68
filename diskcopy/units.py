# SPDX-License-Identifier: Apache-2.0
"""Sizes in bytes, as code and people write them."""

from __future__ import annotations

import re

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

_POWERS = {unit: index for index, unit in enumerate("BKMGTPE")}


def parse_size(text: str) -> int:
    """The bytes that `text` names: "64K", "1.5G", "2MiB", "512".

    Units are powers of 1024, as in qemu. Raises ValueError for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([BKMGTPE]?)(?:iB|B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"{text!r} is not a size; write bytes, or 64K, 10M, 1.5G, 2T")
    number, unit = match.groups()
    scale = 1024 ** _POWERS[unit.upper() or "B"]
    size = float(number) * scale if "." in number else int(number) * scale
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size: float) -> str:
    """`size` bytes for a person: "0 B", "64.0 KiB", "2.6 GiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} EiB"
