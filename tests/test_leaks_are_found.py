# SPDX-License-Identifier: Apache-2.0
"""A test that leaves a descriptor or a thread behind fails."""

from pathlib import Path

import pytest
from test_ci_fails_on_skipped_tests import run

LEAKS = {
    "descriptor": "def test_a():\n    import os\n    os.open('/dev/null', os.O_RDONLY)\n",
    "thread": (
        "def test_a():\n"
        "    import threading, time\n"
        "    threading.Thread(target=time.sleep, args=(4,), name='dawdler').start()\n"
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_fails(tmp_path: Path, kind: str) -> None:
    done = run(tmp_path, LEAKS[kind], "")
    assert done.returncode == 1
    assert "left over by the test" in done.stdout
    assert {"descriptor": "/dev/null", "thread": "dawdler"}[kind] in done.stdout


def test_a_thread_on_its_way_out_is_no_leak(tmp_path: Path) -> None:
    brief = LEAKS["thread"].replace("(4,)", "(0.3,)")
    assert run(tmp_path, brief, "").returncode == 0
