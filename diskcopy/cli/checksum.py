# SPDX-License-Identifier: Apache-2.0
"""`diskcopy checksum`: a disk's digest, in the line that sha256sum would print."""

from __future__ import annotations

import sys

import click

from diskcopy.cli import options, progress, signals
from diskcopy.cli.commands import Command
from diskcopy.cli.text import printable, to_json
from diskcopy.storage.ssh.options import SshOptions


@click.command(cls=Command)
@options.source
@options.source_format
@options.reading
@options.as_json
@options.log_level
def command(
    source: str, source_format: str | None, untrusted: bool, force_share: bool, ssh: SshOptions, as_json: bool
) -> None:
    """Print a digest of a disk.

    It is the same for the same disk in any format, and however sparse. Holes are not read.
    """
    from diskcopy import api

    with signals.cancelling() as cancel, progress.reporter(None) as report:
        digest = api.checksum(
            source,
            format=source_format,
            untrusted=untrusted,
            force_share=force_share,
            ssh=ssh,
            progress=report,
            cancel=cancel,
        )
    if as_json:
        print(to_json({"location": source, "checksum": digest}))
    else:
        print(_line(digest, source))


def _line(digest: str, name: str) -> str:
    """A backslash first says, as in sha256sum, that the name has its own escaped."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    if sys.stdout.isatty():
        # sha256sum would let the name command the terminal.
        escaped = printable(escaped)
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}"
