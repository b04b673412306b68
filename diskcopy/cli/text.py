# SPDX-License-Identifier: Apache-2.0
"""Text for people: whatever a name holds, it stays on its line and commands no terminal."""

from __future__ import annotations

import contextlib
import sys

from diskcopy.units import format_size


def printable(text: str) -> str:
    """`text` with control characters, and what is no character, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def amount(size: int | None) -> str:
    """A size for people and to the byte: "2.6 GiB (2761949184 bytes)"."""
    if size is None:
        return "unknown"
    exact = f"{size} byte{'' if size == 1 else 's'}"
    return exact if abs(size) < 1024 else f"{format_size(size)} ({exact})"


def duration(seconds: float) -> str:
    """Time that is left, or went by, as a clock: "0:07", "12:40", "3:05:00"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say(text: str) -> None:
    """One line on standard error."""
    # Where that cannot be written, nobody is left to be told.
    with contextlib.suppress(OSError):
        print(f"diskcopy: {printable(text)}", file=sys.stderr, flush=True)


def print_json(value: object, *, to_stderr: bool = False) -> None:
    """One JSON document for programs."""
    import json

    print(json.dumps(value, indent=2), file=sys.stderr if to_stderr else sys.stdout)
