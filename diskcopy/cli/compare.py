# SPDX-License-Identifier: Apache-2.0
"""`diskcopy compare`: whether two disks are the same, and where they begin to differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from diskcopy.cli import options, progress, signals
from diskcopy.cli.commands import Command
from diskcopy.cli.text import printable, to_json

if TYPE_CHECKING:
    from diskcopy.api import Comparison
    from diskcopy.storage.ssh.options import SshOptions


class _Compare(Command):
    # 1 is taken: they differ.
    failed = 2


@click.command(
    cls=_Compare, epilog="Exit codes: 0 they are the same, 1 they differ, 2 trouble or wrong usage."
)
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option(
    "-f",
    "--format",
    "left_format",
    type=click.Choice(options.FORMATS),
    help="Format of A; found out from its content by default.",
)
@click.option(
    "-F",
    "--right-format",
    "right_format",
    type=click.Choice(options.FORMATS),
    help="Format of B; found out from its content by default.",
)
@click.option("--strict", is_flag=True, help="Disks of two sizes differ, even if the rest is all zeroes.")
@options.reading
@options.as_json
@options.log_level
def command(
    left: str,
    right: str,
    left_format: str | None,
    right_format: str | None,
    strict: bool,
    untrusted: bool,
    force_share: bool,
    ssh: SshOptions,
    as_json: bool,
) -> int:
    """Compare the disks in two images.

    Their formats may differ. Where the one is larger, the rest of it has to be zeroes.
    """
    from diskcopy import api

    with signals.cancelling() as cancel, progress.reporter(None) as report:
        found = api.compare(
            left,
            right,
            left_format=left_format,
            right_format=right_format,
            strict=strict,
            untrusted=untrusted,
            force_share=force_share,
            ssh=ssh,
            progress=report,
            cancel=cancel,
        )
    if as_json:
        print(to_json(found._asdict()))
    else:
        print(f"{printable(left)} and {printable(right)} {_verdict(found)}")
    return 0 if found.same else 1


def _verdict(found: Comparison) -> str:
    sizes = f"{found.left_size} and {found.right_size} bytes"
    if found.same:
        if found.left_size == found.right_size:
            return "are the same"
        return f"are the same, but for zeroes at the end of the larger one: they have {sizes}"
    if found.offset == min(found.left_size, found.right_size):
        return f"differ at offset {found.offset}, where the smaller one ends: they have {sizes}"
    return f"differ at offset {found.offset}"
