# SPDX-License-Identifier: Apache-2.0
"""Streams give and take bytes in order, however they are cut on the way."""

from __future__ import annotations

import os
import random
import threading
import time
from array import array
from pathlib import Path

import pytest

from diskcopy.engine.copy import copy
from diskcopy.errors import Cancelled, Error, SystemFailure, Unsupported
from diskcopy.storage.null import Null
from diskcopy.storage.stream import StreamReader, StreamWriter


def never() -> None:
    """Nobody wants the reader to stop."""


def test_requests_are_filled_from_any_pieces() -> None:
    rng = random.Random(1)
    content = rng.randbytes(1_000_003)
    out, into = os.pipe()

    def feed() -> None:
        position = 0
        while position < len(content):
            position += os.write(into, content[position : position + rng.choice([1, 700, 65_536])])
        os.close(into)

    thread = threading.Thread(target=feed)
    thread.start()
    got, buffer = b"", bytearray(60_000)
    with StreamReader(out, "pipe") as stream:
        while True:
            count = stream.read_next(buffer, never)
            got += buffer[:count]
            if count < len(buffer):
                break
        assert stream.read_next(buffer, never) == 0, "the end stays the end"
    thread.join()
    assert got == content


def test_writes_arrive_whole_and_zeroes_too() -> None:
    out, into = os.pipe()
    got: list[bytes] = []

    def drain() -> None:
        while piece := os.read(out, 5000):
            got.append(piece)

    thread = threading.Thread(target=drain)
    thread.start()
    with StreamWriter(into, "pipe") as stream:
        stream.write(0, b"A" * 300_000)
        stream.zero(300_000, 2_500_000)
        stream.write(2_800_000, b"B")
        stream.resize(2_800_001)
        assert stream.size == 2_800_001
        for offset in (0, 2_800_000, 2_800_002):
            with pytest.raises(Error, match="in order only"):
                stream.write(offset, b"C")
        with pytest.raises(Error, match="cannot become"):
            stream.resize(5)
    thread.join()
    os.close(out)
    assert b"".join(got) == b"A" * 300_000 + bytes(2_500_000) + b"B"


def test_items_of_any_kind_are_bytes() -> None:
    """A short write must not be taken up again at an item that many bytes on."""
    out, into = os.pipe()
    items = array("q", range(200_000))
    got = bytearray()

    def drain() -> None:
        while piece := os.read(out, 1001):
            got.extend(piece)

    thread = threading.Thread(target=drain)
    thread.start()
    with StreamWriter(into, "pipe") as stream:
        stream.write(0, items)
        assert stream.size == 8 * len(items)
    thread.join()
    os.close(out)
    assert got == items.tobytes()


def test_a_reader_that_went_away_is_told() -> None:
    out, into = os.pipe()
    os.close(out)
    with StreamWriter(into, "pipe") as stream:
        with pytest.raises(SystemFailure, match=r"pipe: cannot write: broken pipe at offset 0"):
            stream.write(0, b"A")


def test_streams_have_one_direction(tmp_path: Path) -> None:
    out, into = os.pipe()
    with StreamReader(out, "in") as reader, StreamWriter(into, "out") as writer:
        for call in (
            lambda: reader.read(0, 1),
            lambda: reader.write(0, b"A"),
            lambda: reader.extents(),
            lambda: writer.read_next(bytearray(1), never),
            lambda: writer.read(0, 1),
        ):
            with pytest.raises(Unsupported):
                call()
    for kind in (StreamReader, StreamWriter):
        with pytest.raises(SystemFailure, match="no such file"):
            kind.at(str(tmp_path / "missing" / "fifo"))


def test_standard_streams_stay_open() -> None:
    for stream in (StreamReader(0, "standard input"), StreamWriter(1, "standard output")):
        stream.close()
        os.fstat(stream.fd)


def test_a_silent_pipe_does_not_keep_a_copy_from_being_cancelled() -> None:
    out, into = os.pipe()
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    began = time.monotonic()
    with StreamReader(out, "pipe") as stream, pytest.raises(Cancelled):
        copy(stream, Null(), cancel=cancel)
    assert time.monotonic() - began < 5
    os.close(into)
