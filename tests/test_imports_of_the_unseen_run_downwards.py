# SPDX-License-Identifier: Apache-2.0
"""Imports that import-linter cannot follow run downward too.

Compiled modules import nothing of ours but each other and the errors and units below them.
No module but the command line takes a public name from the package itself, which has all of them
from the top.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXT = ROOT / "ext"
PACKAGE = ROOT / "diskcopy"
OURS = re.compile(
    r"^\s*(?:from|c?import)\s+(diskcopy(?:\.\w+)*|\.+\w*)(?:\s+c?import\s+(\w+))?", re.MULTILINE
)
KERNELS = [*EXT.rglob("*.pyx"), *EXT.rglob("*.pxd")]
MODULES = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "cli"]


def upward(text: str) -> list[str]:
    """What a kernel's source imports of ours that does not lie below the kernels."""
    found = []
    for module, name in OURS.findall(text):
        last = name if module in ("diskcopy", ".", "..") else module.rpartition(".")[2]
        if last not in ("errors", "units") and not last.startswith("_"):
            found.append(f"{module} {name}".strip())
    return found


def from_the_top(text: str) -> Iterator[str]:
    """What a module's source takes from the package itself and is no module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "diskcopy":
            for alias in node.names:
                places = PACKAGE / alias.name, PACKAGE / f"{alias.name}.py", PACKAGE / f"{alias.name}.pyi"
                if not any(place.exists() for place in places):
                    yield alias.name
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name == "diskcopy")


@pytest.mark.parametrize("source", KERNELS, ids=lambda source: str(source.relative_to(EXT)))
def test_a_kernel_imports_downwards(source: Path) -> None:
    assert upward(source.read_text()) == []


@pytest.mark.parametrize("source", MODULES, ids=lambda source: str(source.relative_to(PACKAGE)))
def test_a_module_takes_no_public_name_from_the_top(source: Path) -> None:
    assert list(from_the_top(source.read_text())) == []


def test_an_upward_import_is_seen() -> None:
    assert upward("from diskcopy.image import Image\n") == ["diskcopy.image Image"]
    assert upward("    from diskcopy import extents\n") == ["diskcopy extents"]
    assert upward("cimport diskcopy._zero\nfrom .errors import Error\n") == []
    assert list(from_the_top("from diskcopy import _fd, registry, copy\n")) == ["copy"]
    assert list(from_the_top("def f():\n    import diskcopy\n")) == ["diskcopy"]
