# SPDX-License-Identifier: Apache-2.0
"""The verbs, on locations: what `import diskcopy` offers and the command line is made of.

A location is a path, ssh://[user@]host[:port]/absolute/path, or "-" for standard input
or output. All sizes are bytes. Every
function raises `diskcopy.errors.Error`, and nothing else, for what is wrong with an
image, a location, or the machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from diskcopy import registry
from diskcopy.engine.compare import Comparison
from diskcopy.engine.progress import Progress
from diskcopy.extents import Extent
from diskcopy.formats.measured import Measure
from diskcopy.image import Image, stack
from diskcopy.registry import open
from diskcopy.storage.ssh.options import SshOptions

__all__ = [
    "Comparison",
    "CopyReport",
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


class CopyReport(NamedTuple):
    """What a copy came to; sizes in bytes.

    source, target: the locations
    source_format, target_format: "raw" or "qcow2"
    size: of the disk
    data: written to the target as data
    zero: read, or said by the source, to be zero, and not moved
    hole: skipped without being read
    allocated: what the target takes on its storage; None where that cannot be told
    seconds: from the first read to the last flush
    cloned: the target shares the source's blocks (a reflink), and nothing was moved
    checksum: of the disk, where it was verified; what `checksum` says of it
    warnings: what the caller should know all the same, a line each
    """

    source: str
    target: str
    source_format: str
    target_format: str
    size: int
    data: int
    zero: int
    hole: int
    allocated: int | None
    seconds: float
    cloned: bool
    checksum: str | None
    warnings: list[str]


def copy(
    source: str,
    target: str,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    compress: str | None = None,
    cluster_size: int | None = None,
    preallocate: str = "off",
    detect_zeroes: bool = True,
    verify: bool = False,
    flush: bool = True,
    untrusted: bool = False,
    force_share: bool = False,
    ssh: SshOptions = SshOptions(),
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> CopyReport:
    """Copy a disk to a new file, or onto a block device; the target appears when it is complete.

    source_format: found out from the content by default
    target_format: by default "qcow2" for a target named so, "raw" otherwise
    compress: "zlib" or "zstd", for qcow2
    cluster_size: of a qcow2 target, a power of two from 512 to 2 MiB; 64 KiB by default
    preallocate: "off", "metadata" (qcow2), or "full"
    detect_zeroes: look for zeroes in the data, and do not move them
    verify: read the target back from its storage, and compare its digests with the source's
    flush: wait until the target is on stable storage; without, the kernel writes it out later
    untrusted: follow no reference that the image makes to other files
    force_share: copy an image that another process has open for writing as well
    ssh: how hosts are reached
    workers: threads; one for each processor by default
    progress: called about ten times a second, in this thread
    cancel: set it, from any thread, and the copy ends with Cancelled

    Raises Cancelled, Mismatch (where verifying fails), Refused, Corrupt, NoSpace and other
    Errors; then nothing new is left, and a file that was there before is as it was.
    """
    from diskcopy.engine.copy import copy as copy_image

    # The target's name is looked at before anything is opened: a slip should not cost a wait.
    wanted = target_format or registry.target_format(target)
    with registry.open(
        source, source_format, untrusted=untrusted, force_share=force_share, ssh=ssh
    ) as reading:
        with registry.create(
            target,
            wanted,
            reading.size,
            source=reading,
            compress=compress,
            cluster_size=cluster_size,
            preallocate=preallocate,
            durable=flush,
            ssh=ssh,
        ) as writing:
            done = copy_image(
                reading,
                writing,
                detect_zeroes=detect_zeroes,
                verify_target=verify,
                may_change=force_share,
                workers=workers,
                progress=progress,
                cancel=cancel,
            )
            allocated = _allocated(writing)
    return CopyReport(
        source,
        target,
        registry.format_of(reading),
        wanted,
        done.size,
        done.data,
        done.zero,
        done.hole,
        allocated,
        done.seconds,
        done.cloned,
        done.checksum,
        list(done.warnings),
    )


def compare(
    left: str,
    right: str,
    *,
    left_format: str | None = None,
    right_format: str | None = None,
    strict: bool = False,
    untrusted: bool = False,
    force_share: bool = False,
    ssh: SshOptions = SshOptions(),
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Comparison:
    """Compare two disks, in whatever formats; what reads as zero in both is not read.

    strict: disks of two sizes differ; otherwise they are the same where the rest of the
        larger one is zero
    """
    from diskcopy.engine.compare import compare as compare_images

    with registry.open(left, left_format, untrusted=untrusted, force_share=force_share, ssh=ssh) as a:
        with registry.open(right, right_format, untrusted=untrusted, force_share=force_share, ssh=ssh) as b:
            return compare_images(a, b, strict=strict, workers=workers, progress=progress, cancel=cancel)


def checksum(
    location: str,
    *,
    format: str | None = None,
    untrusted: bool = False,
    force_share: bool = False,
    ssh: SshOptions = SshOptions(),
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> str:
    """A disk's digest, in hexadecimal: the same for the same disk in any format or sparseness.

    Holes are not read. docs/formats.md says how it is made.
    """
    from diskcopy.engine.verify import checksum as checksum_image

    with registry.open(location, format, untrusted=untrusted, force_share=force_share, ssh=ssh) as image:
        return checksum_image(image, workers=workers, progress=progress, cancel=cancel)


def map(
    location: str,
    *,
    format: str | None = None,
    untrusted: bool = False,
    force_share: bool = False,
    ssh: SshOptions = SshOptions(),
) -> Iterator[Extent]:
    """The extents of a disk, ascending and contiguous, found as they are asked for."""
    with registry.open(location, format, untrusted=untrusted, force_share=force_share, ssh=ssh) as image:
        yield from image.extents()


def info(
    location: str,
    *,
    format: str | None = None,
    chain: bool = False,
    force_share: bool = False,
    ssh: SshOptions = SshOptions(),
) -> dict[str, Any]:
    """What a location is, as plain values: its size, and each image of the stack, top down.

    chain: follow the references that the image makes, and describe what they lead to
    """
    with registry.open(location, format, untrusted=not chain, force_share=force_share, ssh=ssh) as image:
        return {
            "location": location,
            "size": image.size,
            "stack": [{"name": part.name, **part.describe()} for part in stack(image)],
        }


def measure(
    location: str,
    target_format: str,
    *,
    format: str | None = None,
    cluster_size: int | None = None,
    preallocate: str = "off",
    untrusted: bool = False,
    force_share: bool = False,
    ssh: SshOptions = SshOptions(),
) -> Measure:
    """What a copy of a disk to `target_format` would take, from its extents; nothing is read.

    Zeroes that only reading would find, and compression, make the copy smaller than this.
    """
    registry.check_options(
        location, target_format, compress=None, cluster_size=cluster_size, preallocate=preallocate
    )
    with registry.open(location, format, untrusted=untrusted, force_share=force_share, ssh=ssh) as image:
        return registry.measure(image, target_format, cluster_size, preallocate)


def _allocated(image: Image) -> int | None:
    return next(
        (about["allocated"] for about in (part.describe() for part in stack(image)) if "allocated" in about),
        None,
    )
