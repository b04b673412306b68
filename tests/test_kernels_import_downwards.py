# SPDX-License-Identifier: Apache-2.0
"""Compiled modules import nothing of ours but each other and the errors and units below them."""

import re
from pathlib import Path

import pytest

EXT = Path(__file__).resolve().parent.parent / "ext"
OURS = re.compile(
    r"^\s*(?:from|c?import)\s+(diskcopy(?:\.\w+)*|\.+\w*)(?:\s+c?import\s+(\w+))?", re.MULTILINE
)
SOURCES = [*EXT.rglob("*.pyx"), *EXT.rglob("*.pxd")]


def upward(text: str) -> list[str]:
    """The modules of ours that `text` imports and that do not lie below the kernels."""
    found = []
    for module, name in OURS.findall(text):
        last = name if module in ("diskcopy", ".", "..") else module.rpartition(".")[2]
        if last not in ("errors", "units") and not last.startswith("_"):
            found.append(f"{module} {name}".strip())
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(EXT)))
def test_a_kernel_imports_downwards(source: Path) -> None:
    assert upward(source.read_text()) == []


def test_an_upward_import_is_seen() -> None:
    assert upward("from diskcopy.image import Image\n") == ["diskcopy.image Image"]
    assert upward("    from diskcopy import extents\n") == ["diskcopy extents"]
    assert upward("cimport diskcopy._zero\nfrom .errors import Error\n") == []
