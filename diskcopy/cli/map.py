# SPDX-License-Identifier: Apache-2.0
"""`diskcopy map`: the extents of a disk, printed as they are found."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import click

from diskcopy.cli import options
from diskcopy.cli.commands import Command

if TYPE_CHECKING:
    from diskcopy.extents import Extent
    from diskcopy.storage.ssh.options import SshOptions

# Lines that are written at once: a disk may have millions.
_BATCH = 4096

# By zero, then by hole.
_KINDS = (("data", "data,hole"), ("zero", "hole"))
_JSON_KINDS = (
    ('"zero": false, "hole": false, "data": true', '"zero": false, "hole": true, "data": true'),
    ('"zero": true, "hole": false, "data": false', '"zero": true, "hole": true, "data": false'),
)


@click.command(cls=Command)
@options.source
@options.source_format
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON array instead, with one extent in each line."
)
@options.reading
@options.log_level
def command(
    source: str, source_format: str | None, as_json: bool, untrusted: bool, force_share: bool, ssh: SshOptions
) -> None:
    """Print which ranges of a disk hold data.

    Of each extent its start and length in bytes, and what it is: "data"; "zero", which
    reads as zeroes and takes space; "hole", which reads as zeroes and takes none; or
    "data,hole", which a qcow2 image takes from the image below it.
    """
    from diskcopy import api

    extents = api.map(source, format=source_format, untrusted=untrusted, force_share=force_share, ssh=ssh)
    if as_json:
        _print_json(extents)
    else:
        _print_table(extents)


def _print_table(extents: Iterable[Extent]) -> None:
    found = iter(extents)
    batch = list(islice(found, _BATCH))
    print(f"{'start':>16} {'length':>16} type")
    while batch:
        sys.stdout.write(
            "".join([f"{start:16} {length:16} {_KINDS[zero][hole]}\n" for start, length, zero, hole in batch])
        )
        batch = list(islice(found, _BATCH))


def _print_json(extents: Iterable[Extent]) -> None:
    found = iter(extents)
    batch = list(islice(found, _BATCH))
    before = "["
    while batch:
        lines = [
            f'{{"start": {start}, "length": {length}, {_JSON_KINDS[zero][hole]}}}'
            for start, length, zero, hole in batch
        ]
        sys.stdout.write(before + ",\n".join(lines))
        before = ",\n"
        batch = list(islice(found, _BATCH))
    sys.stdout.write("]\n" if before != "[" else "[]\n")
