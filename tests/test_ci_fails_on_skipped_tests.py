# SPDX-License-Identifier: Apache-2.0
"""With CI=true a skipped test fails the run, in one process and in several; elsewhere it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent / "conftest.py"


def run(folder: Path, test: str, ci: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_it.py").write_text("import pytest\n" + test)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)],
        # What conftest.py imports lies beside it.
        env=environment | {"CI": ci, "PYTHONPATH": f"{CONFTEST.parent}:{os.environ.get('PYTHONPATH', '')}"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


SKIPPED = "def test_a(): pass\n@pytest.mark.skip(reason='no device')\ndef test_b(): pass\n"


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_skip_fails_in_ci(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, SKIPPED, "true", *options)
    assert done.returncode == 1
    assert "a skipped test fails the run" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout.splitlines()[-1]


def test_a_module_that_skips_itself_fails_in_ci(tmp_path: Path) -> None:
    done = run(tmp_path, "pytest.importorskip('no_such_module')\ndef test_a(): pass\n", "true")
    assert done.returncode != 0


def test_a_skip_is_allowed_elsewhere(tmp_path: Path) -> None:
    assert run(tmp_path, SKIPPED, "").returncode == 0


def test_no_skip_passes_in_ci(tmp_path: Path) -> None:
    assert run(tmp_path, "def test_a(): pass\n", "true").returncode == 0
