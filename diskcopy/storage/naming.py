# SPDX-License-Identifier: Apache-2.0
"""What a file in the making is called until it is complete, and what it may replace, here or elsewhere."""

from __future__ import annotations

import os
import stat

from diskcopy.errors import Refused


def hidden(name: bytes) -> bytes:
    """A name of its own beside `name`, for a file that will have that name."""
    # A name has 255 bytes at the most, and whole characters where it is UTF-8: some
    # filesystems insist on them. The locale may know only ASCII.
    told = name[:200].decode("utf-8", "ignore").encode()
    return b".%b.%b.diskcopy" % (told, os.urandom(4).hex().encode())


def check_name(name: str, path: str) -> None:
    """Raise Refused where `path`, which the person calls `name`, can only be a folder's."""
    if not os.path.basename(path):
        raise Refused(name, "is the name of a folder", remedy="leave the slash at its end away")


def check_target(name: str, target: str, mode: int | None) -> None:
    """Raise Refused where no file may be made at `target`.

    name: what the person calls it
    mode: st_mode of what is there, None where nothing is
    """
    if mode is None:
        if target.startswith("/dev/") and not target.startswith("/dev/shm/"):
            raise Refused(
                name,
                "there is no such device, and a file would be made in its place",
                remedy="check the name (lsblk lists the devices)",
            )
    elif stat.S_ISDIR(mode):
        raise Refused(name, "is a directory", remedy="name the file to write in it")
    elif not stat.S_ISREG(mode):
        raise Refused(name, "is not a regular file, and would be replaced by one")
