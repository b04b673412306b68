# SPDX-License-Identifier: Apache-2.0
"""The real command, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "diskcopy"]

# The same package as here, whatever folder the command runs in.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    if os.environ.get("PYTHONPATH")
    else "",
}


def diskcopy(*words: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `diskcopy WORDS...` to its end; its output is text unless `settings` say otherwise."""
    settings = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "timeout": 120,
        "text": True,
        "env": ENVIRONMENT,
        **settings,
    }
    if "input" not in settings:
        settings.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([*COMMAND, *map(str, words)], check=False, **settings)
    assert "Traceback" not in str(done.stderr), done.stderr
    return done


def fails(code: int, *words: object, **settings: Any) -> str:
    """Run a command that has to fail with `code`; returns the one line that it says."""
    done = diskcopy(*words, **settings)
    assert done.returncode == code, done
    assert done.stdout == "", done.stdout
    assert done.stderr.startswith("diskcopy: ")
    assert done.stderr.count("\n") == 1
    line: str = done.stderr.rstrip("\n")
    return line


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files included."""
    return sorted(os.listdir(folder))
