# SPDX-License-Identifier: Apache-2.0
"""Block devices: never created, never zero to begin with, never written while held."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from diskcopy.errors import Refused, system_failure
from diskcopy.image import Lineage
from diskcopy.storage import locks
from diskcopy.storage.file import Descriptor, file_identity

# _IO(0x12, 104) of <linux/fs.h>: the size of a logical sector.
_BLKSSZGET = 0x1268


class BlockDevice(Descriptor):
    """A block device, opened to be read, or to be written by us alone."""

    def __init__(self, path: str, *, writable: bool = False, locking: bool = True) -> None:
        """Raises Refused where a running guest writes to it, and where it is to be written and
        is mounted, or held by anything else."""
        # O_EXCL on a block device: only if nobody holds it, mounts and volume managers included.
        flags = os.O_CLOEXEC | (os.O_RDWR | os.O_EXCL if writable else os.O_RDONLY)
        try:
            fd = os.open(path, flags)
        except OSError as failure:
            if failure.errno == errno.EBUSY:
                raise Refused(
                    path,
                    "is in use: mounted, or held by the system",
                    remedy="unmount or release it first (lsblk shows by whom)",
                ) from None
            raise system_failure(path, "open", failure) from None
        super().__init__(fd, path, writable=writable)
        try:
            if locking:  # qemu holds no device for itself; only its locks tell
                locks.claim(fd, path, writing=writable)
            self.size = os.lseek(fd, 0, os.SEEK_END)
        except BaseException:
            os.close(fd)
            raise

    def identity(self) -> frozenset[Lineage]:
        return device_identity(os.fstat(self.fd))

    def describe(self) -> dict[str, object]:
        sector = int.from_bytes(fcntl.ioctl(self.fd, _BLKSSZGET, bytes(4)), "little")
        return {"storage": "block device", "size": self.size, "sector size": sector}


def device_identity(about: os.stat_result) -> frozenset[Lineage]:
    """The device, the disk that it is a partition of, and what is behind a loop device: a file,
    or another device and what that is a part of."""
    return frozenset({tuple(_lineage(about.st_rdev))})


def _lineage(device: int) -> list[tuple[str, int, int]]:
    lineage = [("device", os.major(device), os.minor(device))]
    folder = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if os.path.exists(f"{folder}/partition"):
        folder = os.path.dirname(folder)
        major, minor = _line(f"{folder}/dev").split(":")
        lineage.append(("device", int(major), int(minor)))
    if os.path.exists(f"{folder}/loop/backing_file"):
        path = _line(f"{folder}/loop/backing_file")
        if os.path.exists(path):  # it may be deleted, or lie outside this mount namespace
            behind = os.stat(path)
            if stat.S_ISBLK(behind.st_mode):
                # The kernel sees to it that this ends: no loop device is behind itself.
                return lineage + _lineage(behind.st_rdev)
            lineage.append(file_identity(behind))
    return lineage


def _line(path: str) -> str:
    with open(path) as file:
        return file.readline().rstrip("\n")
