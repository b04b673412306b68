# SPDX-License-Identifier: Apache-2.0
"""Holds the bytes on the wire to a rate: each request waits until there is room for what it moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Held:
    """Room that a request has taken; it sets `used` to what it needed of it."""

    def __init__(self, length: int) -> None:
        self.used = length


class Limit:
    """A rate in bytes a second, None for none, that any number of threads share."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        # When all that was let through so far has passed.
        self._clear_at = 0.0

    @contextmanager
    def held(self, length: int) -> Iterator[Held]:
        """Wait for room for `length` bytes; what is not used of it is free again afterwards."""
        held = Held(length)
        if self._rate is None:
            yield held
            return
        with self._lock:
            now = time.monotonic()
            begin = max(self._clear_at, now)
            self._clear_at = begin + length / self._rate
        time.sleep(begin - now)
        try:
            yield held
        finally:
            with self._lock:
                self._clear_at -= (length - held.used) / self._rate
