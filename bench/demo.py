# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a real guest disk, copied every way by the command line, each copy proven identical.

All that it makes is in the folder demo/, to be looked at.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import guest_disk
from rich.console import Console
from rich.table import Table

from diskcopy.units import MiB, format_size

FOLDER = Path(__file__).resolve().parent.parent / "demo"
DISKCOPY = str(Path(sys.executable).with_name("diskcopy"))
GUEST = "guest.raw"

# Source, target, options.
COPIES = (
    (GUEST, "copy.raw", ()),
    (GUEST, "guest.qcow2", ("-O", "qcow2")),
    ("guest.qcow2", "zlib.qcow2", ("-O", "qcow2", "--compress", "zlib")),
    ("guest.qcow2", "zstd.qcow2", ("-O", "qcow2", "--compress", "zstd")),
    ("zlib.qcow2", "from-zlib.raw", ()),
    ("zstd.qcow2", "from-zstd.raw", ()),
)


def main() -> None:
    console = Console(highlight=False, soft_wrap=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    console.print(
        f"Making a guest disk, [bold]demo/{GUEST}[/]: partitions, an ext4 filesystem, deleted files"
    )
    guest = guest_disk.build(FOLDER / GUEST)
    guest_disk.check_filesystem(guest.path)
    deleted = sum(map(len, guest.deleted))
    console.print(
        f"  {format_size(guest_disk.SIZE)} for the guest, {len(guest.files)} files, "
        f"{format_size(deleted)} of deleted files in its free space, "
        f"{format_size(guest_disk.SWAP[1])} of zeroes that take space\n"
    )
    digest = checksum(GUEST)
    table = Table(title=f"{in_mib(guest_disk.SIZE)} MiB for the guest; in MiB", title_justify="left")
    table.add_column("copy", no_wrap=True)
    for title in ("moved", "zeroes,\nnot moved", "holes,\nnot moved", "space\ntaken", "seconds"):
        table.add_column(title, justify="right")
    table.add_row(GUEST, "", "", "", in_mib(taken(GUEST)), "")
    for source, target, options in COPIES:
        report = copy(console, source, target, options)
        prove(console, target, digest)
        sizes = [in_mib(report[key]) for key in ("data", "zero", "hole", "allocated")]
        table.add_row(f"{source} → {target}", *sizes, f"{report['seconds']:.2f}")
    show_that_the_proof_can_fail(console, guest)
    console.print(table, soft_wrap=False)
    console.print(
        f"Each copy is the guest's disk, byte for byte. They are in the folder [bold]{FOLDER.name}[/]."
    )


def copy(console: Console, source: str, target: str, options: Sequence[str]) -> dict[str, Any]:
    """Run `diskcopy copy`; its progress bar goes to the terminal, its report comes back."""
    command = ["copy", source, target, *options, "--verify", "-p"]
    console.print(f"[bold]$ diskcopy {shlex.join(command)}[/]")
    done = subprocess.run(
        [DISKCOPY, *command, "--json"], cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"the demo stops: diskcopy ended with {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def prove(console: Console, target: str, digest: str) -> None:
    """Stop the demo unless `target` is the guest's disk by every judge."""
    format = "qcow2" if target.endswith(".qcow2") else "raw"
    must("diskcopy compare", [DISKCOPY, "compare", GUEST, target])
    must("qemu-img compare", ["qemu-img", "compare", "-f", "raw", "-F", format, GUEST, target])
    judges = ["diskcopy compare", "qemu-img compare", "the same checksum"]
    if checksum(target) != digest:
        sys.exit(f"the demo stops: the checksum of {target} is another")
    if format == "qcow2":
        must("qemu-img check", ["qemu-img", "check", target])
        judges.append("qemu-img check")
    else:
        guest_disk.check_filesystem(FOLDER / target)
        judges.append("e2fsck")
    console.print(f"  [green]identical[/] by {', '.join(judges)}\n")


def show_that_the_proof_can_fail(console: Console, guest: guest_disk.GuestDisk) -> None:
    """One changed byte in a copy, and both comparisons find it."""
    spoiled = FOLDER / "spoiled.raw"
    where = guest.path.read_bytes().index(guest.deleted[0][:4096])
    shutil.copy(FOLDER / "copy.raw", spoiled)
    with open(spoiled, "r+b") as file:
        file.seek(where)
        file.write(bytes([guest.deleted[0][0] ^ 1]))
    for command in ([DISKCOPY, "compare"], ["qemu-img", "compare", "-f", "raw", "-F", "raw"]):
        done = subprocess.run(
            [*command, GUEST, spoiled.name], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        if done.returncode != 1:
            sys.exit(f"the demo stops: {command[0]} did not see a changed byte at {where}")
        if command[0] == DISKCOPY:
            console.print(f"One byte changed in a copy: {(done.stdout + done.stderr).strip()}\n")
    spoiled.unlink()


def checksum(name: str) -> str:
    return must("diskcopy checksum", [DISKCOPY, "checksum", name]).split()[0]


def in_mib(size: int) -> str:
    return f"{size / MiB:.1f}"


def taken(name: str) -> int:
    return (FOLDER / name).stat().st_blocks * 512


def must(what: str, command: list[str]) -> str:
    """What a command printed; the demo stops where it fails."""
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the demo stops: {what}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
