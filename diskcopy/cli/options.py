# SPDX-License-Identifier: Apache-2.0
"""The options and arguments that commands share: one word means one thing in all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, wraps
from typing import Any, TypeVar

import click

from diskcopy.cli.text import printable
from diskcopy.storage.ssh.options import SshOptions
from diskcopy.units import parse_size

Function = TypeVar("Function", bound=Callable[..., Any])

FORMATS = ["raw", "qcow2"]


def _size(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_size(text)
    except ValueError as failure:
        raise click.BadParameter(str(failure), ctx, param) from None


def _log_to_stderr(ctx: click.Context, param: click.Parameter, level: str | None) -> None:
    if level is None:
        return
    import logging

    logger = logging.getLogger("diskcopy")
    if not logger.handlers:

        class Printable(logging.Formatter):
            def format(self, record: logging.LogRecord) -> str:
                return printable(super().format(record))

        handler = logging.StreamHandler()
        handler.setFormatter(Printable("diskcopy: %(levelname)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level.upper())


log_level = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    callback=_log_to_stderr,
    expose_value=False,
    help="How much to say on stderr of what goes on; debug shows what each layer does.",
)

source = click.argument("source", metavar="SRC")

source_format = click.option(
    "-f",
    "--format",
    "source_format",
    type=click.Choice(FORMATS),
    help="Format of SRC; found out from its content by default.",
)

target_format = click.option(
    "-O",
    "--target-format",
    "target_format",
    type=click.Choice(FORMATS),
    help="Format to write; by default the one that DST's name ends in, or raw.",
)

cluster_size = click.option(
    "--cluster-size",
    metavar="SIZE",
    callback=_size,
    help="Cluster size of qcow2: a power of two, 512 to 2M; by default 64K.",
)

preallocate = click.option(
    "--preallocate",
    type=click.Choice(["off", "metadata", "full"]),
    default="off",
    show_default=True,
    help="Reserve space in the target: for qcow2's tables, or for the whole disk.",
)

untrusted = click.option(
    "--untrusted", is_flag=True, help="Follow no reference from an image to other files."
)

force_share = click.option(
    "--force-share", is_flag=True, help="Read an image even while a running machine writes to it."
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")


def ssh(function: Function) -> Function:
    """How hosts are reached: four options that the command gets as one `ssh`."""

    @wraps(function)
    def collected(
        *args: Any,
        ssh_config: str | None,
        ssh_backend: str | None,
        ssh_compression: bool,
        rate: int | None,
        **others: Any,
    ) -> Any:
        return function(*args, ssh=SshOptions(ssh_config, ssh_backend, ssh_compression, rate), **others)

    decorators = [
        click.option(
            "--ssh-config", metavar="FILE", type=click.Path(exists=True), help="Read FILE, not ~/.ssh/config."
        ),
        click.option(
            "--ssh-backend",
            type=click.Choice(["agent", "sftp"]),
            help="What to use of an SSH host: python3 there, which finds zeroes and holes before they "
            "cross the wire, or SFTP; by default python3 where it is there.",
        ),
        click.option("--ssh-compression", is_flag=True, help="Compress what crosses the wire to SSH hosts."),
        click.option(
            "--bwlimit", "rate", metavar="RATE", callback=_size, help="Bytes a second to or from SSH hosts."
        ),
    ]
    return reduce(lambda made, decorator: decorator(made), reversed(decorators), collected)  # type: ignore[return-value]


def reading(function: Function) -> Function:
    """The options of all commands that read the content of disks."""
    return untrusted(force_share(ssh(function)))
