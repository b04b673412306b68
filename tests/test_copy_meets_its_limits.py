# SPDX-License-Identifier: Apache-2.0
"""Too little memory, or no thread to be had: one line says so, and nothing is left."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from command import fails, names
from disks import MiB, sparse_file

import diskcopy
from diskcopy.engine import workers
from diskcopy.errors import SystemFailure


def test_no_memory_for_a_buffer() -> None:
    with pytest.raises(SystemFailure, match=r"^memory: cannot take \d+ bytes: cannot allocate memory$"):
        workers.run(
            lambda buffer: None,
            lambda item, buffer: None,
            workers=2,
            room=1 << 60,
            stop=workers.Stop(None),
            tick=lambda: None,
        )


def test_a_thread_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two: the first ends."""
    sparse_file(tmp_path / "a", 1, 4 * MiB)
    started = []

    def start(thread, real=workers.threading.Thread.start) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(workers.threading.Thread, "start", start)
    with pytest.raises(SystemFailure, match="threads: cannot start one: can't start new thread; raise"):
        diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"), workers=2)
    assert not started[0].is_alive()
    assert names(tmp_path) == ["a"]


def test_no_descriptors_left(tmp_path: Path) -> None:
    sparse_file(tmp_path / "a", 1, MiB)
    said = fails(
        1,
        "copy",
        tmp_path / "a",
        tmp_path / "b",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5)),
    )
    assert "too many open files" in said
    assert names(tmp_path) == ["a"]
