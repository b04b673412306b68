# SPDX-License-Identifier: Apache-2.0
"""`diskcopy copy`: a disk to a new file, a device or a pipe, and what it came to."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

import click

from diskcopy.cli import options, progress, signals
from diskcopy.cli.commands import Command
from diskcopy.cli.text import printable, say, tell, to_json
from diskcopy.units import format_size

if TYPE_CHECKING:
    from diskcopy.api import CopyReport
    from diskcopy.storage.ssh.options import SshOptions


class _Copy(Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # An option whose value may be left out takes the next word for it in click.
        ends = args.index("--") if "--" in args else len(args)
        words = ["--progress=bar" if word == "--progress" else word for word in args[:ends]]
        return super().parse_args(ctx, words + args[ends:])


@click.command(cls=_Copy)
@options.source
@click.argument("target", metavar="DST")
@options.source_format
@options.target_format
@click.option("--compress", type=click.Choice(["zlib", "zstd"]), help="Compress a qcow2 target.")
@options.cluster_size
@options.preallocate
@click.option(
    "--verify", is_flag=True, help="Read the target back from its storage, and compare it with what was read."
)
@click.option("--no-detect-zeroes", is_flag=True, help="Move zeroes that are found in the data as well.")
@click.option("--no-flush", is_flag=True, help="Do not wait until the target is on stable storage.")
@options.reading
@click.option(
    "-p", "progress_style", flag_value="bar", help="Show progress from the start: same as --progress=bar."
)
@click.option(
    "--progress",
    "progress_style",
    type=click.Choice(progress.STYLES),
    help="How to show progress, on stderr: a bar, a line of JSON for each update, or not at all. "
    "By default a bar, on a terminal, once the copy takes a second.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the report as one JSON document instead: on stdout, or on stderr where DST is -.",
)
@options.log_level
def command(
    source: str,
    target: str,
    source_format: str | None,
    target_format: str | None,
    compress: str | None,
    cluster_size: int | None,
    preallocate: str,
    verify: bool,
    no_detect_zeroes: bool,
    no_flush: bool,
    untrusted: bool,
    force_share: bool,
    ssh: SshOptions,
    progress_style: str | None,
    as_json: bool,
) -> None:
    """Copy a disk to a file, a block device or a pipe.

    DST appears when it is complete; a file that was there before is replaced then. A
    block device is written in place. What is zero is not moved.
    """
    from diskcopy import api

    if target == "-" and sys.stdout.isatty():
        raise click.UsageError("a disk is not written to a terminal; send standard output to a file or pipe")
    before = _identity(target)
    try:
        with signals.cancelling() as cancel, progress.reporter(progress_style) as report:
            done = api.copy(
                source,
                target,
                source_format=source_format,
                target_format=target_format,
                compress=compress,
                cluster_size=cluster_size,
                preallocate=preallocate,
                detect_zeroes=not no_detect_zeroes,
                verify=verify,
                flush=not no_flush,
                untrusted=untrusted,
                force_share=force_share,
                ssh=ssh,
                progress=report,
                cancel=cancel,
            )
    except signals.Interrupted:
        raise signals.Interrupted(_left_behind(target, before)) from None
    if as_json:
        # Standard output may be the disk.
        show = tell if target == "-" else print
        show(to_json(done._asdict()))
        return
    # Lines of JSON are for a program, which would stumble over text between them.
    if progress_style != "json":
        tell("\n".join(_summary(done)))
    for warning in done.warnings:
        say(f"warning: {warning}")


def _summary(done: CopyReport) -> list[str]:
    what = f"copied {format_size(done.size)} in {done.seconds:.1f} s"
    if done.cloned:
        lines = [f"{what}: a reflink, which shares the blocks of {printable(done.source)}"]
    else:
        lines = [
            f"{what}: {format_size(done.data)} data, {format_size(done.zero)} found zero, "
            f"{format_size(done.hole)} holes"
        ]
    if done.allocated is not None:
        lines.append(f"{printable(done.target)} takes {format_size(done.allocated)} on its storage")
    if done.checksum is not None:
        lines.append(f"it reads back from there as it was written, and its checksum is\n{done.checksum}")
    return lines


def _identity(target: str) -> tuple[int, int] | None:
    """What is at a target's name now, if anything: a finished copy is another file."""
    try:
        about = os.stat(target)
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino


def _is_regular(target: str) -> bool:
    """Also where the name is gone: only a file's can go while we use it."""
    try:
        return stat.S_ISREG(os.stat(target).st_mode)
    except FileNotFoundError:
        return True


def _left_behind(target: str, before: tuple[int, int] | None) -> str:
    """What an interrupted copy says of its target."""
    if target == "-" or (before is not None and not _is_regular(target)):
        return f"; {target} is incomplete"
    return ", nothing was written" if _identity(target) == before else f"; {target} is complete"
