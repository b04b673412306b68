# SPDX-License-Identifier: Apache-2.0
"""Options that make no sense are refused before any work; none of them is ignored, and none hangs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import diskcopy
from diskcopy.errors import UsageError


@pytest.mark.parametrize(
    "options",
    [
        {"workers": -1},
        {"target_format": "qcow2", "cluster_size": 0},
        {"target_format": "qcow2", "cluster_size": -512},
        {"target_format": "qcow2", "preallocate": "falloc"},
        {"target_format": "raw", "preallocate": "falloc"},
        {"target_format": "raw", "preallocate": "metadata"},
        {"target_format": "raw", "cluster_size": 512},
        {"target_format": "raw", "compress": "zlib"},
        {"target_format": "vmdk"},
        {"source_format": "vmdk"},
    ],
)
def test_copy(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000)
    with pytest.raises(UsageError):
        diskcopy.copy(str(tmp_path / "a"), str(tmp_path / "b"), **options)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("target_format", "options"),
    [
        ("raw", {"cluster_size": 512}),
        ("raw", {"preallocate": "metadata"}),
        ("raw", {"preallocate": "falloc"}),
        ("qcow2", {"cluster_size": 0}),
        ("qcow2", {"preallocate": "falloc"}),
    ],
)
def test_measure(tmp_path: Path, target_format: str, options: dict[str, Any]) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000)
    with pytest.raises(UsageError):
        diskcopy.measure(str(tmp_path / "a"), target_format, **options)


@pytest.mark.parametrize("ask", [diskcopy.checksum, lambda a, **k: diskcopy.compare(a, a, **k)])
def test_no_threads(tmp_path: Path, ask: Any) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000)
    with pytest.raises(UsageError, match="-2 threads do no work"):
        ask(str(tmp_path / "a"), workers=-2)


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000)
    for name in ("", "a\0b", "\ud800"):
        with pytest.raises(UsageError):
            diskcopy.copy(str(tmp_path / "a"), name)
        with pytest.raises(UsageError):
            diskcopy.copy(name, str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["a"]
