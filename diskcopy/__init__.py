# SPDX-License-Identifier: Apache-2.0
"""diskcopy copies virtual machine disks: sparse, fast, without temporary files.

>>> report = diskcopy.copy("guest.raw", "guest.qcow2", verify=True)
>>> with diskcopy.open("guest.qcow2") as disk:
...     first_sector = disk.read(0, 512)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diskcopy.api import (
        Comparison,
        CopyReport,
        Measure,
        Progress,
        SshOptions,
        checksum,
        compare,
        copy,
        info,
        map,
        measure,
        open,
    )
    from diskcopy.errors import Error
    from diskcopy.extents import Extent, ExtentMap
    from diskcopy.image import Image, Layer

__version__ = "0.1.0.dev0"

__all__ = [
    "Comparison",
    "CopyReport",
    "Error",
    "Extent",
    "ExtentMap",
    "Image",
    "Layer",
    "Measure",
    "Progress",
    "SshOptions",
    "checksum",
    "compare",
    "copy",
    "info",
    "map",
    "measure",
    "open",
]

# Names are loaded when they are asked for: `diskcopy --help` needs no engine.
_HOMES = {"Error": "errors", "Extent": "extents", "ExtentMap": "extents", "Image": "image", "Layer": "image"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"diskcopy.{_HOMES.get(name, 'api')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
