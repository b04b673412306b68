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


def say(line: str) -> None:
    """One line on standard error, marked as ours."""
    tell(f"diskcopy: {printable(line)}")


def tell(text: str) -> None:
    """Lines on standard error."""
    # Where they cannot be written, nobody is left to be told; what was done is done.
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def to_json(value: object) -> str:
    """A JSON document, for programs."""
    import json

    return json.dumps(value, indent=2)
