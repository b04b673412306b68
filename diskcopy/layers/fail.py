# SPDX-License-Identifier: Apache-2.0
"""A layer that fails on purpose: for testing what happens then."""

from __future__ import annotations

import errno as _errno
import threading
from collections.abc import Iterator

from diskcopy.errors import system_failure
from diskcopy.extents import Facts
from diskcopy.image import Image, Layer


class Fail(Layer):
    """Fails with `errno` where an action of a kind touches a byte, or is the n-th of its kind.

    action: "read", "write", "zero", "flush", "commit" or "find data"
    at: the byte that cannot be touched
    after: how many such actions succeed first; both None means the first one fails
    """

    def __init__(
        self,
        image: Image,
        action: str,
        *,
        at: int | None = None,
        after: int | None = None,
        errno: int = _errno.EIO,
    ) -> None:
        super().__init__(image)
        self._action = action
        self._at = at
        self._after = after
        self._errno = errno
        self._lock = threading.Lock()

    def _meet(self, action: str, offset: int = 0, length: int = 0) -> None:
        if action != self._action:
            return
        if self._at is not None:
            if not offset <= self._at < offset + length:
                return
        elif self._after is not None:
            with self._lock:
                self._after -= 1
                if self._after >= 0:
                    return
        raise system_failure(self.name, action, OSError(self._errno, ""), self._at)

    def _readinto(self, offset: int, buffer: memoryview) -> None:
        self._meet("read", offset, buffer.nbytes)
        super()._readinto(offset, buffer)

    def _extents(self, offset: int, length: int) -> Iterator[Facts]:
        self._meet("find data", offset, length)
        return super()._extents(offset, length)

    def _write(self, offset: int, buffer: memoryview) -> None:
        self._meet("write", offset, buffer.nbytes)
        super()._write(offset, buffer)

    def _zero(self, offset: int, length: int, punch: bool) -> bool:
        self._meet("zero", offset, length)
        return super()._zero(offset, length, punch)

    def _flush(self) -> None:
        self._meet("flush")
        super()._flush()

    def _commit(self) -> None:
        self._meet("commit")
        super()._commit()
