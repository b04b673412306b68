# SPDX-License-Identifier: Apache-2.0
"""Run by tests as a program of its own, under LD_PRELOAD of faults.c: one kernel call with bad system calls.

Takes one JSON object: folder, call ("copy_pieces", "make_zero", "data_ranges", "walk_in_parts",
"read_into"),
arguments, faults (fields of the struct in faults.c). Prints the outcome and the calls counted.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

from disks import piece

from diskcopy import _fd
from diskcopy.errors import FdFailure

FAULTS = (
    "on",
    "most",
    "interrupt",
    "read_error",
    "read_at",
    "ends_at",
    "write_error",
    "write_at",
    "write_nothing",
)
FAULTS += ("seek", "seek_hole", "punch", "zero_range", "zeroout")
CALLS = ("pread", "pwrite", "seek", "seek_hole", "punch", "zero_range", "zeroout", "interrupted")


def fields(struct: str, names: tuple[str, ...]) -> ctypes.Structure:
    kind = type(struct, (ctypes.Structure,), {"_fields_": [(name, ctypes.c_long) for name in names]})
    return kind.in_dll(ctypes.CDLL(None), struct)  # type: ignore[no-any-return]


def main() -> None:
    job = json.loads(sys.argv[1])
    faults, calls = fields("faults", FAULTS), fields("calls", CALLS)
    source = os.open(os.path.join(job["folder"], "source"), os.O_RDONLY)
    target = os.open(job.get("target") or os.path.join(job["folder"], "target"), os.O_RDWR)
    size = os.lseek(source, 0, os.SEEK_END)
    for name, value in job["faults"].items():
        setattr(faults, name, value)
    result: object = None
    failure: FdFailure | None = None
    buffer = bytearray(job.get("buffer", 65536))
    faults.on = 1
    try:
        if job["call"] == "copy_pieces":
            *result, failure = _fd.copy_pieces(
                source, target, piece(0, size), buffer, 4096, *job["arguments"]
            )
        elif job["call"] == "make_zero":
            _fd.make_zero(target, *job["arguments"])
        elif job["call"] == "data_ranges":
            pairs, position = _fd.data_ranges(source, 0, size, *job["arguments"])
            result = [list(pairs), position]
        elif job["call"] == "walk_in_parts":
            (part,), known = job["arguments"], _fd.KnownData()
            result = [
                bound
                for start in range(0, size, part)
                for bound in _fd.data_ranges(source, start, min(start + part, size), 99, known)[0]
            ]
        elif job["call"] == "read_into":
            result = _fd.read_into(source, buffer, *job["arguments"])
    except FdFailure as raised:
        failure = raised
    faults.on = 0
    told = failure and [failure.errno, failure.action, failure.offset]
    print(json.dumps({"result": result, "failure": told, **{name: getattr(calls, name) for name in CALLS}}))


main()
