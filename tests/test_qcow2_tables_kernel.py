# SPDX-License-Identifier: Apache-2.0
"""The kernel's runs are those of a slow reading of the specification, entry by entry."""

import random
import struct

import pytest

from diskcopy.formats.qcow2 import _tables
from diskcopy.formats.qcow2.lookup import BAD, COMPRESSED, DATA, UNALLOCATED, ZERO_ALLOCATED, ZERO_PLAIN

BASE = 1 << 40


def slow(table: bytes, start: int, end: int, bits: int, extended: bool, reading: bool) -> list[list[int]]:
    """One run per byte range that can differ, then merged."""
    unit = 1 << (bits - 5 if extended else bits)
    runs: list[list[int]] = []
    position = start
    while position < end:
        index = (position - BASE) >> bits
        stop = min(end, position - position % unit + unit)
        word, bitmap = struct.unpack_from(
            ">QQ" if extended else ">Q", table, index * (16 if extended else 8)
        ) + (() if extended else (0,))
        host, stored = word & 0x00FFFFFFFFFFFE00, 0
        if word >> 62 & 1:
            kind = COMPRESSED
            host = word & ((1 << (70 - bits)) - 1)
            stored = (((word & ~(3 << 62)) >> (70 - bits)) + 1) * 512 - host % 512
            stop = min(end, BASE + (index + 1 << bits))
        elif extended:
            number = ((position - BASE) & ((1 << bits) - 1)) // unit
            kind = UNALLOCATED
            if bitmap >> number & 1:
                kind = DATA
            elif bitmap >> 32 + number & 1:
                kind = ZERO_ALLOCATED if host else ZERO_PLAIN
        elif word & 1:
            kind = ZERO_ALLOCATED if host else ZERO_PLAIN
        else:
            kind = DATA if host else UNALLOCATED
        if kind == DATA:
            host += (position - BASE) & ((1 << bits) - 1)
        elif kind != COMPRESSED:
            host = 0
        last = runs[-1] if runs else None
        if (
            last
            and last[0] == kind
            and (
                (kind == DATA and last[3] + last[2] == host)
                or kind in (UNALLOCATED, ZERO_PLAIN, ZERO_ALLOCATED)
                or (kind == COMPRESSED and not reading)
            )
        ):
            last[2] += stop - position
        else:
            runs.append([kind, position, stop - position, host, stored])
        position = stop
    return runs


def random_table(rng: random.Random, bits: int, extended: bool, entries: int) -> bytes:
    table = b""
    host = 1 << bits
    for _ in range(entries):
        kind = rng.choice("nnnnuzac")
        word = 0
        if kind == "c":
            word = (
                1 << 62
                | rng.randrange(1 << (bits - 8)) << (70 - bits)
                | rng.randrange(1 << min(50, 70 - bits))
            )
        elif kind in "na":
            host += rng.choice([1, 1, 1, 2]) << bits
            word = 1 << 63 | host
        if extended:
            bitmap = 0
            if kind in "na" and rng.random() < 0.4:
                bitmap = 0xFFFFFFFF
            elif kind != "c":
                zero = rng.getrandbits(32) & rng.getrandbits(32)
                bitmap = zero << 32 | (rng.getrandbits(32) & ~zero if kind in "na" else 0)
            table += struct.pack(">QQ", word, bitmap)
        else:
            table += struct.pack(">Q", word | (kind in "za"))
    return table


def fast(
    table: bytes, start: int, end: int, bits: int, extended: bool, reading: bool, most: int
) -> list[list[int]]:
    """The kernel's runs, asked for in portions and joined again where they were cut."""
    runs: list[list[int]] = []
    while start < end:
        numbers = list(_tables.runs(table, BASE, start, end, bits, extended, False, False, reading, most))
        assert 0 < len(numbers) // 5 <= most
        runs += [numbers[at : at + 5] for at in range(0, len(numbers), 5)]
        assert runs[-1][1] + runs[-1][2] > start
        start = runs[-1][1] + runs[-1][2]
    return runs


@pytest.mark.parametrize("seed", range(150))
def test_random_tables(seed: int) -> None:
    rng = random.Random(seed)
    extended = rng.random() < 0.5
    bits = rng.randrange(14 if extended else 9, 22)
    entries = rng.randrange(1, 60)
    table = random_table(rng, bits, extended, entries)
    start = BASE + rng.randrange(entries << bits)
    end = start + rng.randrange(BASE + (entries << bits) - start + 1)
    for reading in (False, True):
        want = slow(table, start, end, bits, extended, reading)
        assert fast(table, start, end, bits, extended, reading, 1 << 20) == want
        for most in (1, 2, 7):
            portions = fast(table, start, end, bits, extended, reading, most)
            assert [run[1] + run[2] for run in portions if run in want] == [
                run[1] + run[2] for run in want if run in portions
            ]
            assert sum(run[2] for run in portions) == end - start


@pytest.mark.parametrize(
    ("word", "bitmap", "wrong"),
    [
        (1 << 16 | 2, None, 1),
        (1 << 16 | 1 << 61, None, 1),
        (1 << 15, None, 2),
        (1 << 16 | 1, 0, 1),
        (1 << 16, 1 << 32 | 1, 4),
        (0, 1, 5),
        (1 << 62, 1, 1),
    ],
)
def test_bad_entries_end_the_runs(word: int, bitmap: int | None, wrong: int) -> None:
    extended = bitmap is not None
    entry = struct.pack(">QQ", word, bitmap) if bitmap is not None else struct.pack(">Q", word)
    table = bytes(len(entry)) + entry + bytes(len(entry))
    numbers = list(_tables.runs(table, 0, 0, 3 << 16, 16, extended, False, False, True, 100))
    assert numbers[:3] == [UNALLOCATED, 0, 1 << 16]
    assert numbers[5:8] == [BAD, 1 << 16, wrong]
    assert len(numbers) == 10


def test_version_2_has_no_zero_clusters_and_a_data_file_nothing_but_its_own_offsets() -> None:
    def kind(word: int, *, external: bool, version_2: bool) -> list[int]:
        return list(_tables.runs(struct.pack(">Q", word), 0, 0, 512, 16, False, external, version_2, True, 9))

    assert kind(1, external=False, version_2=True)[:3] == [BAD, 0, 3]
    assert kind(1 << 63, external=True, version_2=False)[:4] == [DATA, 0, 512, 0]
    assert kind(1 << 63 | 1 << 16, external=True, version_2=False)[:3] == [BAD, 0, 6]
    assert kind(1 << 62, external=True, version_2=False)[:3] == [BAD, 0, 7]
    assert kind(1 << 63, external=False, version_2=False)[:3] == [UNALLOCATED, 0, 512]
