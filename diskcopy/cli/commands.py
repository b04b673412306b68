# SPDX-License-Identifier: Apache-2.0
"""The group of commands: each is a module of its own, loaded when it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from signal import SIGPIPE
from typing import Any

import click

from diskcopy import __version__
from diskcopy.cli import signals, streams
from diskcopy.cli.options import log_level
from diskcopy.cli.signals import Interrupted
from diskcopy.cli.text import say
from diskcopy.errors import Error, UsageError

_NAMES = ("copy", "map", "info", "measure", "compare", "checksum")

SETTINGS = {"help_option_names": ["-h", "--help"]}


class _Failure(Exception):
    """A command failed for a reason that its line says."""

    def __init__(self, line: str, exit_code: int) -> None:
        super().__init__(line)
        self.exit_code = exit_code


class Command(click.Command):
    """A command whose errors are one line, and whose failure has its exit code."""

    failed = 1

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"context_settings": SETTINGS, **settings})

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Error as error:
            raise _Failure(str(error), 2 if isinstance(error, UsageError) else self.failed) from error
        except MemoryError:
            raise _Failure("there is not enough memory for this", self.failed) from None


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _NAMES:
            return None
        command: click.Command = import_module(f"diskcopy.cli.{cmd_name}").command
        return command


@click.group(
    cls=_Group,
    context_settings=SETTINGS,
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage; compare has its own.",
)
@click.version_option(__version__, prog_name="diskcopy", message="%(prog)s %(version)s")
@log_level
def group() -> None:
    """Copy virtual machine disks: sparse, fast, without temporary files.

    SRC and DST are paths of images or block devices, or - for standard input and output.
    """


def run(arguments: list[str] | None) -> int:
    """Run the command line, say what went wrong in one line, and return the exit code."""
    streams.pass_names_through()
    try:
        code = group.main(arguments, prog_name="diskcopy", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.ctx.get_help() if asked.ctx else asked.message, err=True)
        return 2
    except click.UsageError as error:
        say(_usage(error))
        return 2
    except _Failure as failure:
        say(str(failure))
        code = failure.exit_code
    except Interrupted as interrupted:
        say(f"interrupted{interrupted}")
    except BrokenPipeError:
        # `diskcopy map DISK | head` ends as any filter does.
        streams.discard_output()
        signals.end_by(SIGPIPE)
    except OSError as error:
        # Only printing is left: what happens to images is an Error.
        streams.discard_output()
        say(f"standard output: cannot write: {error.strerror}")
        return 1
    signals.end_by_signal()
    return code or 0


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "diskcopy"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; see {command} --help"
