# SPDX-License-Identifier: Apache-2.0
"""A small, real guest disk, made without root: what `make demo` and the tests copy.

    | GPT | ext4: files, deleted files in its free space, never used | swap: zeroes | hole | GPT |
    0     1 MiB                                                      200            232    256 MiB

The filesystem is made by mke2fs -d, and some of its files are deleted by debugfs, which
frees their blocks and leaves the bytes there. The swap partition is zeroes that take
space, the rest of the disk holes.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20
SIZE = 256 * MIB
FILESYSTEM = MIB, 199 * MIB
SWAP = 200 * MIB, 32 * MIB

PARTITIONS = f"""
label: gpt
label-id: 6DA5B7F2-9C0D-4D5E-8C0B-3B1C1C1A2C10
start={FILESYSTEM[0] // 512}, size={FILESYSTEM[1] // 512}, type=linux, name=root
start={SWAP[0] // 512}, size={SWAP[1] // 512}, type=swap, name=swap
"""


class GuestDisk(NamedTuple):
    """A raw disk file and what is in it.

    files: path in the guest to content, of the files that are there
    deleted: the contents of those that were deleted, and lie in free space still
    """

    path: Path
    files: dict[str, bytes]
    deleted: list[bytes]


def build(path: Path, seed: int = 1) -> GuestDisk:
    """Make the disk file `path`; the same content for the same `seed`."""
    chance = random.Random(seed)
    files = {f"/srv/photo-{n}.jpg": chance.randbytes(3 * MIB + n) for n in range(8)}
    files |= {f"/var/log/log.{n}": _log(chance, 4 * MIB) for n in range(6)}
    files |= {f"/etc/conf.d/{n}.conf": _log(chance, chance.randrange(1, 9000)) for n in range(200)}
    files |= {"/etc/empty": b""}
    doomed = {f"/home/old-{n}.tar": chance.randbytes(6 * MIB) for n in range(4)}

    with open(path, "wb") as disk:
        disk.truncate(SIZE)
        disk.seek(SWAP[0])
        disk.write(bytes(SWAP[1]))
    _run("sfdisk", "--quiet", str(path), text=PARTITIONS)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, content in (files | doomed).items():
            inside = Path(folder, name.lstrip("/"))
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.write_bytes(content)
        options = f"offset={FILESYSTEM[0]},root_owner=0:0"
        _run(
            *("mke2fs", "-q", "-t", "ext4", "-L", "guest", "-d", folder, "-E", options),
            *(str(path), f"{FILESYSTEM[1] // 1024}k"),
        )
    _debugfs(path, *(f"rm {name}" for name in doomed), write=True)
    return GuestDisk(path, files, list(doomed.values()))


def check_filesystem(path: Path) -> None:
    """Raise CalledProcessError where e2fsck finds a fault in the filesystem of the raw disk `path`."""
    _run("e2fsck", "-fn", f"{path}?offset={FILESYSTEM[0]}")


def read_files(path: Path, names: list[str], scratch: Path) -> dict[str, bytes]:
    """What the guest's files hold in the raw disk `path`; `scratch` is a folder for them."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    _debugfs(path, *(f"dump {name} {scratch}/{n}" for n, name in enumerate(names)))
    return {name: (scratch / str(n)).read_bytes() for n, name in enumerate(names)}


def _log(chance: random.Random, length: int) -> bytes:
    """Text that compresses about as well as a log."""
    words = [chance.randbytes(chance.randrange(1, 5)).hex() for _ in range(300)]
    lines = [" ".join(chance.choices(words, k=8)) for _ in range(200)]
    drawn = chance.choices(lines, k=length // 24 + 1)
    return "\n".join(f"{n} {line}" for n, line in enumerate(drawn)).encode()[:length]


def _debugfs(path: Path, *commands: str, write: bool = False) -> None:
    """debugfs ends with 0 whatever happens; what it says on stderr beyond its version is a failure."""
    done = _run(
        *("debugfs", *(["-w"] if write else []), "-f", "-", f"{path}?offset={FILESYSTEM[0]}"),
        text="\n".join(commands) + "\n",
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("debugfs ")]
    if said:
        raise RuntimeError(f"debugfs {path}: {said[0]}")


def _run(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True)
