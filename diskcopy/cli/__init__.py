# SPDX-License-Identifier: Apache-2.0
"""Words in, exit code out: the command line, and the only place that prints.

    0  done        1  failed        2  wrong usage
    compare: 0 the same, 1 they differ, 2 trouble

An interrupted command ends by the signal it got, so that a shell's loop ends too.
"""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> int:
    """Run the command that `arguments` (by default the process's) ask for; returns its exit code.

    Takes over the process's signals, and does not return where one of them ended the work.
    """
    from diskcopy.cli import signals, streams

    # First of all, so that Ctrl-C during the slower imports is not a traceback.
    signals.use_defaults()
    streams.fill_closed()
    from diskcopy.cli.commands import run

    return run(arguments)
