# SPDX-License-Identifier: Apache-2.0
"""The public names, and no others, each with a docstring; importing them is light."""

from __future__ import annotations

import subprocess
import sys

import diskcopy

NAMES = [
    "Comparison",
    "CopyReport",
    "Error",
    "Extent",
    "ExtentMap",
    "Image",
    "Layer",
    "Measure",
    "Progress",
    "SshOptions",
    "checksum",
    "compare",
    "copy",
    "info",
    "map",
    "measure",
    "open",
]
HEAVY = {"numpy", "rich", "click", "zstandard", "deflate", "paramiko", "asyncio"}


def test_the_names_are_these() -> None:
    assert sorted(diskcopy.__all__) == NAMES
    for name in NAMES:
        assert getattr(diskcopy, name).__doc__, name


def test_a_local_copy_imports_nothing_heavy() -> None:
    script = (
        "import sys, tempfile, os, diskcopy\n"
        "folder = tempfile.mkdtemp()\n"
        "path = os.path.join(folder, 'a')\n"
        "open(path, 'wb').write(b'x' * 9999)\n"
        "diskcopy.copy(path, os.path.join(folder, 'b'))\n"
        "diskcopy.copy(path, os.path.join(folder, 'b.qcow2'))\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not HEAVY & set(loaded.stdout.split())
