# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and its like: outside of work they end the process at once, during work they cancel it.

A signal first sets the work's cancel event, which its threads look at after every
request. Work that does not end by that, such as a read from a pipe that nobody writes
to, gets an exception soon after, and sooner on a second signal. Either way what was begun is
removed before the process ends by the signal.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from diskcopy.errors import Cancelled

if TYPE_CHECKING:
    import threading

# Seconds. A request takes milliseconds: what takes longer is stuck. Whoever asks twice waits less.
_PATIENCE, _LITTLE_PATIENCE = 1.0, 0.1
# On its way out an exception waits for threads, which may be what is stuck: then it takes another.
_AGAIN = 0.5

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Signals belong to the process, and so does the one that ended the work.
_received: list[int] = []


class Interrupted(Exception):
    """A signal ended the work. Its text says what was done by then."""


class _Stuck(BaseException):
    """Raised out of whatever the main thread waits for."""


def use_defaults() -> None:
    """Signals end the process, with nothing said; those that our parent ignores stay ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def cancelling() -> Iterator[threading.Event]:
    """Within, a signal sets the event that is yielded; raises Interrupted where that ended the work.

    Work that ends regularly in spite of a signal is left alone; `end_by_signal` comes after it.
    """
    from threading import Event

    cancel = Event()

    def cancel_first(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        cancel.set()
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE if len(_received) == 1 else _LITTLE_PATIENCE, _AGAIN)

    def give_up(number: int, frame: FrameType | None) -> None:
        raise _Stuck

    handled = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, cancel_first) for number in handled}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, give_up)
    try:
        yield cancel
    except (Cancelled, _Stuck):
        raise Interrupted from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def end_by_signal() -> None:
    """End the process by the signal that was received during the work, if one was."""
    if _received:
        end_by(_received[0])


def end_by(number: int) -> NoReturn:
    """End the process as the signal does to one that knows nothing of signals."""
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError("the default action of a signal that ends a process did not")
