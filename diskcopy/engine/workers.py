# SPDX-License-Identifier: Apache-2.0
"""A few threads that pull work until there is none: first error wins, all are joined."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from diskcopy.errors import Cancelled, SystemFailure, UsageError, system_failure
from diskcopy.image import Image, stack

# A request: so large that Python's share of it, some 40 us, is small, and that threads seldom
# wait for each other to do theirs. Measured on whole copies: 512 KiB takes a tenth longer.
REQUEST = 2 << 20

# How often the caller hears of progress, and cancellation from outside is looked at.
_TICK = 0.1

Work = TypeVar("Work")


class Stop:
    """Tells workers to end early, because one failed or the caller asked for it."""

    def __init__(self, cancel: threading.Event | None) -> None:
        self._cancel = cancel
        self._stopped = threading.Event()

    def set(self) -> None:
        self._stopped.set()

    def check(self) -> None:
        """Raise Cancelled where the work should end."""
        if self._stopped.is_set() or (self._cancel is not None and self._cancel.is_set()):
            raise Cancelled("the work", "was cancelled")


def default_workers(*images: Image) -> int:
    """One for each processor that we may use, two at least: one reads while the other writes;
    and as many as keep a storage busy that answers from afar."""
    processors = min(16, max(2, len(os.sched_getaffinity(0))))
    return max(processors, *(part.parallel for image in images for part in stack(image)))


def run(
    pull: Callable[[memoryview], Work | None],
    work: Callable[[Work, memoryview], None],
    *,
    workers: int,
    room: int,
    stop: Stop,
    tick: Callable[[], None],
) -> None:
    """Call `work(pull(buffer), buffer)` in threads until `pull` returns None.

    `pull` is called by one thread at a time. Each thread has a page-aligned buffer of
    `room` bytes for itself. `tick` is called in the calling thread about ten times
    a second. Raises the first error of any thread, after all have ended.
    """
    if workers < 1:
        raise UsageError("workers", f"{workers} threads do no work", remedy="use 1 or more")
    pulling = threading.Lock()
    ended = threading.Semaphore(0)
    errors: list[BaseException] = []

    def worker() -> None:
        try:
            buffer = _buffer(room)
            while True:
                stop.check()
                with pulling:
                    item = pull(buffer)
                if item is None:
                    return
                work(item, buffer)
        except BaseException as error:
            errors.append(error)
            stop.set()
        finally:
            ended.release()

    threads = [threading.Thread(target=worker, name=f"diskcopy-{n}", daemon=True) for n in range(workers)]
    running = workers
    try:
        for thread in threads:
            _start(thread)
        while running:
            if ended.acquire(timeout=_TICK):
                running -= 1
            else:
                tick()
    finally:
        # On Ctrl-C as well: the threads write to a target that the caller is about to remove.
        if running:
            stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if errors:
        raise errors[0]


def _buffer(room: int) -> memoryview:
    # Anonymous memory is page-aligned, and given back at once.
    try:
        return memoryview(mmap.mmap(-1, room))
    except OSError as failure:
        raise system_failure("memory", f"take {room} bytes", failure) from None


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as failure:
        raise SystemFailure(
            "threads",
            f"cannot start one: {failure}",
            errno=errno.EAGAIN,
            remedy="raise the limits of this process (ulimit -u, ulimit -v)",
        ) from None
