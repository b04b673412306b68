# SPDX-License-Identifier: Apache-2.0
"""Standard input, output and error, whatever state the caller left them in."""

from __future__ import annotations

import codecs
import os
import sys


def fill_closed() -> None:
    """Put something in the place of closed standard streams, that fails when it is used.

    The next file opened would get the number otherwise, and a line meant for standard
    error would be written into a disk.
    """
    for fd, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number, which is this one: those below it are taken.
            os.open(os.devnull, mode)
    # Without them, print would take standard output for standard error, and say nothing there.
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def pass_names_through() -> None:
    """A name may hold bytes that are no characters; they go out as they came in. Characters
    that the locale does not have, from inside an image, go out as escapes."""
    codecs.register_error("diskcopy", _pass_through)
    sys.stdout.reconfigure(errors="diskcopy")  # type: ignore[union-attr]


def _pass_through(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def discard_output() -> None:
    """Drop what is not written yet to standard output, or Python tries again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
