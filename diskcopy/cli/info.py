# SPDX-License-Identifier: Apache-2.0
"""`diskcopy info`: what a location is, the stack of images from the top down."""

from __future__ import annotations

from typing import Any

import click

from diskcopy.cli import options
from diskcopy.cli.commands import Command
from diskcopy.cli.text import amount, printable, to_json
from diskcopy.storage.ssh.options import SshOptions

# Facts whose numbers are bytes have one of these words in their names.
_BYTES = ("size", "allocated", "length")


@click.command(cls=Command)
@options.source
@options.source_format
@click.option("--chain", is_flag=True, help="Follow references to other files, and describe these as well.")
@options.force_share
@options.ssh
@options.as_json
@options.log_level
def command(
    source: str, source_format: str | None, chain: bool, force_share: bool, ssh: SshOptions, as_json: bool
) -> None:
    """Say what an image is, and what lies below it.

    References that an image makes to other files are printed, and not followed unless
    --chain is given.
    """
    from diskcopy import api

    found = api.info(source, format=source_format, chain=chain, force_share=force_share, ssh=ssh)
    if as_json:
        print(to_json(found))
    else:
        print("\n".join(_readable(found)))


def _readable(found: dict[str, Any]) -> list[str]:
    lines = [f"{printable(found['location'])}: a disk of {amount(found['size'])}"]
    for part in found["stack"]:
        facts = dict(part)
        kind = facts.pop("format", None) or facts.pop("storage", "layer")
        lines.append(f"  {printable(str(kind))}: {printable(facts.pop('name'))}")
        lines += [f"    {line}" for line in _facts(facts)]
    return lines


def _facts(facts: dict[str, Any]) -> list[str]:
    """A line for each fact that says something: what is not there, and No, are left out."""
    lines: list[str] = []
    for name, value in facts.items():
        if value is None or value is False or value == [] or value == {}:
            continue
        if isinstance(value, list) and isinstance(value[0], dict):
            lines.append(f"{_words(name)}:")
            for item in value:
                first, *rest = _facts(item) or ["-"]
                lines += [f"  - {first}", *(f"    {line}" for line in rest)]
        else:
            lines.append(f"{_words(name)}: {_value(name, value)}")
    return lines


def _words(name: str) -> str:
    return printable(name.replace("_", " "))


def _value(name: str, value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, int) and any(word in name for word in _BYTES):
        return amount(value)
    if isinstance(value, list):
        return printable(", ".join(map(str, value)))
    return printable(str(value))
