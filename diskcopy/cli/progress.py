# SPDX-License-Identifier: Apache-2.0
"""How far the work is, on standard error: a bar for people, or lines for programs.

asked for     on a terminal                        elsewhere
nothing       a bar, once the work takes a second  nothing
bar           a bar from the start                 a line of text each second
json          a line of JSON for each update, ten a second at the most
none          nothing
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from diskcopy.cli.text import duration
from diskcopy.units import format_size

if TYPE_CHECKING:
    from rich.live import Live

    from diskcopy.api import Progress

STYLES = ("bar", "json", "none")

# Seconds: work that ends before needs no bar, and is spared the time that loading one takes.
_SHORT = 1.0

# Seconds between updates of a bar, and between lines of text.
_BAR_INTERVAL, _LINE_INTERVAL = 0.1, 1.0

# Characters for percent, bytes, rate and time left: the bar keeps its length while they change.
_WIDTHS = (4, 20, 11, 9)

# Columns that a terminal has to have for more than the bar and its percentage.
_WIDE = 64


class _Display(Protocol):
    def show(self, now: Progress) -> None: ...

    def close(self) -> None: ...


@contextmanager
def reporter(style: str | None) -> Iterator[Callable[[Progress], None] | None]:
    """What to pass to a verb as its progress function; the display is gone after the block."""
    display = _display(style)
    if display is None:
        yield None
        return
    shown: list[_Display] = [display]

    def show(now: Progress) -> None:
        if shown:
            try:
                shown[0].show(now)
            except OSError:
                # A terminal that went away is no reason to stop the work.
                shown.clear()

    try:
        yield show
    finally:
        if shown:
            shown[0].close()


def _display(style: str | None) -> _Display | None:
    terminal = sys.stderr.isatty()
    if style == "json":
        return _Json()
    if style == "bar":
        return _Bar(0.0) if terminal else _Lines()
    if style is None and terminal and not _is_logging():
        return _Bar(_SHORT)
    return None


def _is_logging() -> bool:
    """Whether log lines go to the terminal, which a bar would be drawn over."""
    import logging

    return bool(logging.getLogger("diskcopy").handlers)


class _Json:
    """One JSON object in each line."""

    def show(self, now: Progress) -> None:
        import json

        remaining = now.remaining
        about = {
            **now._asdict(),
            "elapsed": round(now.elapsed, 3),
            "rate": round(now.rate),
            "remaining": None if remaining is None else round(remaining, 3),
        }
        print(json.dumps(about), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Every line is out already."""


class _Lines:
    """A line of text now and then, for a log."""

    def __init__(self) -> None:
        self._next = 0.0
        self._phase = self._last = ""

    def show(self, now: Progress) -> None:
        at = time.monotonic()
        if at >= self._next or now.phase != self._phase or now.done == now.size:
            self._next = at + _LINE_INTERVAL
            self._phase = now.phase
            line = ", ".join(part for part in (*figures(now), skipped(now)) if part)
            if line != self._last:
                print(f"{now.phase}: {line}", file=sys.stderr, flush=True)
                self._last = line

    def close(self) -> None:
        """Every line is out already."""


class _Bar:
    """Two lines that are drawn again and again, and are gone in the end."""

    def __init__(self, delay: float) -> None:
        self._live: Live | None = None
        self._phase = ""
        self._next = time.monotonic() + delay

    def show(self, now: Progress) -> None:
        at = time.monotonic()
        # The beginning and the end of a phase are shown at once.
        is_border = now.phase != self._phase or now.done == now.size
        if at < self._next and (self._live is None or not is_border):
            return
        if self._live is None:
            self._live = self._start()
        self._next = at + _BAR_INTERVAL
        self._phase = now.phase
        self._live.update(_drawing(now, self._live.console.width), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    @staticmethod
    def _start() -> Live:
        from rich.console import Console
        from rich.live import Live

        # Standard output may be the disk, and is left alone.
        live = Live(
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()
        return live


def _drawing(now: Progress, width: int) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if now.phase == "flush":
        return Text("flush  waiting until everything is on stable storage", no_wrap=True, overflow="ellipsis")
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    parts = figures(now) if width >= _WIDE else figures(now)[:1]
    for _, characters in zip(parts, _WIDTHS, strict=False):
        line.add_column(no_wrap=True, justify="right", min_width=characters)
    bar = ProgressBar(total=now.size, completed=now.done, pulse=now.size is None, animation_time=now.elapsed)
    line.add_row(now.phase, bar, *parts)
    indent = " " * (len(now.phase) + 1)
    return Group(line, Text(indent + skipped(now), style="dim", no_wrap=True, overflow="ellipsis"))


def figures(now: Progress) -> list[str]:
    """Percent, bytes, rate, and the time that is left; what is not known is left out."""
    if now.phase == "flush":
        return ["waiting until everything is on stable storage"]
    rate = f"{format_size(now.rate)}/s"
    if now.size is None:
        return [format_size(now.done), rate]
    percent = 100 * now.done // now.size if now.size else 100
    parts = [f"{percent}%", f"{format_size(now.done)} of {format_size(now.size)}", rate]
    remaining = now.remaining
    return parts if remaining is None else [*parts, f"{duration(remaining)} left"]


def skipped(now: Progress) -> str:
    """What did not have to be moved; nothing for a phase without such."""
    parts = []
    if now.hole:
        parts.append(f"{format_size(now.hole)} of holes")
    if now.zero:
        parts.append(f"{format_size(now.zero)} of zeroes")
    return f"skipped {', '.join(parts)}" if parts else ""
