# SPDX-License-Identifier: Apache-2.0
"""How far a piece of work is, and what it came to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """A moment of a running piece of work; sizes in bytes.

    phase: "copy", "flush", "verify", "compare" or "checksum"
    size: of the disk; None while a stream has not ended
    done: how much of the disk is settled: data + zero + hole
    data: read and found to be data
    zero: read, or said by the image, to be zero
    hole: skipped without being read
    elapsed: seconds since the phase began
    """

    phase: str
    size: int | None
    done: int
    data: int
    zero: int
    hole: int
    elapsed: float

    @property
    def rate(self) -> float:
        """Bytes of the disk settled per second."""
        return self.done / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds until the phase ends at this rate; None where nothing can be said."""
        if self.size is None or not self.done:
            return None
        return (self.size - self.done) / self.rate if self.rate else None


class Tally:
    """The counters that workers add to and a `Progress` is taken from."""

    # Workers hold the lock for one addition per segment or request of a megabyte.

    def __init__(self, phase: str, size: int | None, report: Callable[[Progress], None] | None) -> None:
        self.size = size
        self.data = self.zero = self.hole = 0
        self._phase = phase
        self._report = report
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def add(self, data: int = 0, zero: int = 0, hole: int = 0) -> None:
        with self._lock:
            self.data += data
            self.zero += zero
            self.hole += hole

    def tell(self) -> None:
        """Call the caller's function, if there is one, with how far the work is now."""
        if self._report is not None:
            with self._lock:
                done = self.data + self.zero + self.hole
                now = Progress(
                    self._phase,
                    self.size,
                    done,
                    self.data,
                    self.zero,
                    self.hole,
                    time.monotonic() - self._began,
                )
            self._report(now)
