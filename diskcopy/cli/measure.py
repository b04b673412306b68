# SPDX-License-Identifier: Apache-2.0
"""`diskcopy measure`: how many bytes a target will need."""

from __future__ import annotations

import click

from diskcopy.cli import options
from diskcopy.cli.commands import Command
from diskcopy.cli.text import amount, to_json
from diskcopy.storage.ssh.options import SshOptions


@click.command(cls=Command)
@options.source
@click.option(
    "-O",
    "--target-format",
    "target_format",
    type=click.Choice(options.FORMATS),
    required=True,
    help="Format that a copy would have.",
)
@options.source_format
@options.cluster_size
@options.preallocate
@options.reading
@options.as_json
@options.log_level
def command(
    source: str,
    target_format: str,
    source_format: str | None,
    cluster_size: int | None,
    preallocate: str,
    untrusted: bool,
    force_share: bool,
    ssh: SshOptions,
    as_json: bool,
) -> None:
    """Print how many bytes a copy will take.

    Twice: now, and once the guest has written all of its disk. Nothing is read. Zeroes
    that only reading would find, and compression, make a copy smaller than this.
    """
    from diskcopy import api

    found = api.measure(
        source,
        target_format,
        format=source_format,
        cluster_size=cluster_size,
        preallocate=preallocate,
        untrusted=untrusted,
        force_share=force_share,
        ssh=ssh,
    )
    if as_json:
        print(to_json(found._asdict()))
    else:
        print(f"required: {amount(found.required)}")
        print(f"fully allocated: {amount(found.fully_allocated)}")
