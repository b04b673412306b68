# SPDX-License-Identifier: Apache-2.0
"""The copy: what is data moves, what is zero does not, and the target appears when it is complete."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from diskcopy import _fd
from diskcopy.engine.digest import DiskDigest
from diskcopy.engine.move import Between, FromStream, Job, Through
from diskcopy.engine.progress import Progress, Tally
from diskcopy.engine.verify import verify
from diskcopy.engine.workers import Stop, default_workers, run
from diskcopy.errors import Changed, NoSpace, UsageError
from diskcopy.image import Image, stack
from diskcopy.units import format_size


class Copied(NamedTuple):
    """What a copy came to; sizes in bytes.

    size: of the disk
    data: written to the target as data
    zero: read, or said by the source, to be zero, and not moved
    hole: skipped without being read
    seconds: from the first read to the last flush
    cloned: the target shares the source's blocks (a reflink), and nothing was moved
    checksum: of the disk, where it was verified
    warnings: what the caller should know all the same, a line each
    """

    size: int
    data: int
    zero: int
    hole: int
    seconds: float
    cloned: bool
    checksum: str | None
    warnings: tuple[str, ...]


def copy(
    source: Image,
    target: Image,
    *,
    detect_zeroes: bool = True,
    verify_target: bool = False,
    may_change: bool = False,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Copied:
    """Copy the disk `source` to `target`, flush it, and commit it.

    verify_target: read the flushed target back from its storage, and compare
    may_change: a source that others write to meanwhile is a warning, not an error
    workers: threads; by default one for each processor, or what a storage asks for

    Raises an Error, and leaves the target uncommitted, where anything fails.
    """
    if verify_target and "reread" not in target.can:
        raise UsageError(target.name, "cannot be read back to verify it")
    began = time.monotonic()
    # A stream takes its bytes in order, so one thread feeds it.
    workers = 1 if "sequential" in target.can else workers or default_workers(source, target)
    stop = Stop(cancel)
    digest = DiskDigest() if verify_target else None
    tally = Tally("copy", source.size, progress)
    job = Job(source, target, detect_zeroes, digest, tally, stop)
    cloned = _clone(job)
    if not cloned:
        _move(job, workers)
    size = tally.size or 0

    flushing = Tally("flush", size, progress)
    flushing.tell()
    target.flush()
    flushing.tell()
    warnings = [*_warn_of_change(source, may_change)]
    warnings += (line for image in (source, target) for part in stack(image) for line in part.warnings())
    if digest is not None:
        verify(target, source, digest, size, workers=workers, stop=stop, progress=progress)
    # Who cancelled while the flush went on was not answered yet.
    stop.check()
    target.commit()
    return Copied(
        size,
        tally.data,
        tally.zero,
        tally.hole,
        time.monotonic() - began,
        cloned,
        digest.checksum(size) if digest else None,
        tuple(warnings),
    )


def _clone(job: Job) -> bool:
    """Share the source's blocks, where both ends are files of one filesystem that can do it."""
    source, target = job.source.fileno(), job.target.fileno()
    if source is None or target is None or "clone" not in job.target.can or job.digest is not None:
        return False
    return _fd.clone(source, target)


def _move(job: Job, workers: int) -> None:
    mover: Through
    target = job.target.fileno()
    if job.source.size is None:
        mover = FromStream(job)
    elif target is not None and job.digest is None:
        mover = Between(job, target)
    else:
        mover = Through(job)
    job.tally.tell()
    try:
        run(mover.pull, mover.work, workers=workers, room=mover.request, stop=job.stop, tick=job.tally.tell)
    except NoSpace as failure:
        raise _with_what_is_missing(failure, job) from None
    # A device keeps its size, and has refused what does not fit into it.
    if job.source.size is None and "resize" in job.target.can:
        job.target.resize(job.tally.size or 0)
    job.tally.tell()


def _with_what_is_missing(failure: NoSpace, job: Job) -> NoSpace:
    """The failure, saying how much more room the rest of the disk takes at the most."""
    remedy = failure.remedy
    if job.source.size is not None:
        data = sum(extent.length for extent in job.source.extents() if extent.data)
        missing = max(0, data - job.tally.data - job.tally.zero)
        remedy = f"up to {format_size(missing)} more is needed; {remedy}"
    return NoSpace(
        failure.name, failure.reason, errno=failure.errno or 0, offset=failure.offset, remedy=remedy
    )


def _warn_of_change(source: Image, may_change: bool) -> tuple[str, ...]:
    try:
        source.check_unchanged()
    except Changed as change:
        if not may_change:
            raise
        return (str(change),)
    return ()
