# SPDX-License-Identifier: Apache-2.0
"""diskcopy copies virtual machine disks: sparse, fast, without temporary files.

>>> report = diskcopy.copy("guest.raw", "guest.qcow2", verify=True)
>>> with diskcopy.open("guest.qcow2") as disk:
...     first_sector = disk.read(0, 512)
"""

from diskcopy.api import (
    Comparison,
    CopyReport,
    Measure,
    Progress,
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
    "checksum",
    "compare",
    "copy",
    "info",
    "map",
    "measure",
    "open",
]
