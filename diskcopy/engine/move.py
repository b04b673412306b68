# SPDX-License-Identifier: Apache-2.0
"""How bytes get from a source to a target: three ways, one table.

    in the source              target known to be zero    target of unknown content
    -------------------------  -------------------------  -------------------------
    hole, or zero extent       left alone                 zeroed: punched if it can
    data, a block of zeroes    left alone                 zeroed: punched if it can
    data                       written                    written

Without `detect_zeroes` the second line does not apply, and all data is written.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from diskcopy import _fd, _zero
from diskcopy.engine import plan
from diskcopy.engine.digest import LEAF, DiskDigest, leaf_digests
from diskcopy.engine.pieces import parts
from diskcopy.engine.plan import Segment
from diskcopy.engine.progress import Tally
from diskcopy.engine.workers import REQUEST, Stop
from diskcopy.errors import Error, system_failure
from diskcopy.image import Image

# Zeroes are looked for in blocks of this many bytes: what filesystems allocate.
GRANULARITY = 4096

# What a kernel gathers before it writes. With 256 KiB, which stay in a core's own cache, a copy
# takes a third longer: a filesystem's share of each write weighs more.
_KERNEL_BUFFER = 1 << 20


class Job(NamedTuple):
    """What is to be moved, and by which rules. `digest`, where given, is filled in on the way."""

    source: Image
    target: Image
    detect_zeroes: bool
    digest: DiskDigest | None
    tally: Tally
    stop: Stop


class Through:
    """From any image to any other, by requests into a buffer of the worker's."""

    def __init__(self, job: Job) -> None:
        self._job = job
        block = job.target.block
        # Zeroes are left out in whole units, so that a target never gets a part of its block.
        self._unit = max(GRANULARITY, block.minimum)
        # No two requests meet in one block of the target, or in one leaf of the digest.
        self.request = max(REQUEST, block.minimum, block.preferred, self._read_unit)
        self._segments = self._plan()

    def pull(self, buffer: memoryview) -> Segment | None:
        """The next piece of work, or None after the last."""
        return next(self._segments, None)

    def work(self, segment: Segment, buffer: memoryview) -> None:
        """Settle a segment of the disk in the target."""
        if segment.data:
            self._move(segment.start, segment.end, buffer)
            self._job.target.start_writeback(segment.start, segment.end - segment.start)
        else:
            self._skip(segment.start, segment.end, hole=segment.hole)

    def _plan(self) -> Iterator[Segment]:
        source = self._job.source
        return plan.segments([source], 0, source.size or 0, self._read_unit)

    @property
    def _read_unit(self) -> int:
        return self._unit if self._job.digest is None else max(self._unit, LEAF)

    def _move(self, start: int, end: int, buffer: memoryview) -> None:
        ranges = plan.data_ranges([self._job.source], start, end, self._read_unit)
        leaves: dict[int, bytes] = {}
        # In order, gaps and data in turn: a stream takes them no other way.
        position = start
        for at, stop in plan.requests(ranges, self.request):
            self._job.stop.check()
            self._skip(position, at, hole=True)
            position = stop
            block = buffer[: stop - at]
            runs = self._read(at, block)
            if self._job.digest is not None:
                leaves.update(leaf_digests(at, block))
            self._put(at, block, runs)
        self._skip(position, end, hole=True)
        if self._job.digest is not None:
            self._job.digest.set_segment(leaves)

    def _read(self, offset: int, block: memoryview) -> Iterable[int]:
        """Fill the block, and say which runs of it are to be written."""
        if self._job.detect_zeroes:
            return self._job.source.read_runs(offset, block, self._unit)
        self._job.source.readinto(offset, block)
        return (0, block.nbytes)

    def _put(self, offset: int, block: memoryview, runs: Iterable[int]) -> None:
        """Write the runs (start0, end0, start1, ...) of a block, and make the rest of it zero."""
        size = block.nbytes
        bounds = iter(runs)
        position = data = 0
        for start, end in zip(bounds, bounds, strict=True):
            self._make_zero(offset + position, offset + start)
            self._job.target.write(offset + start, block[start:end])
            data += end - start
            position = end
        self._make_zero(offset + position, offset + size)
        self._job.tally.add(data=data, zero=size - data)

    def _skip(self, start: int, end: int, *, hole: bool) -> None:
        self._make_zero(start, end)
        if hole:
            self._job.tally.add(hole=end - start)
        else:
            self._job.tally.add(zero=end - start)

    def _make_zero(self, start: int, end: int) -> None:
        if start < end and not self._job.target.is_zero:
            self._job.target.zero(start, end - start)


class Between(Through):
    """From descriptors to a descriptor, as far as the source lies in such: whole segments in one
    call of a kernel."""

    def __init__(self, job: Job, target: int) -> None:
        super().__init__(job)
        self._target = target
        self._known_data: defaultdict[int, _fd.KnownData] = defaultdict(_fd.KnownData)

    def _move(self, start: int, end: int, buffer: memoryview) -> None:
        for part in parts([self._job.source], start, end, self._unit):
            if part.storages:
                self._copy(part.storages[0], part.pieces, buffer[:_KERNEL_BUFFER])
            else:
                super()._move(part.start, part.end, buffer)

    def _copy(self, storage: Image, pieces: array[int], buffer: memoryview) -> None:
        job = self._job
        source = storage.fileno()
        assert source is not None
        data, zero, hole, failure = _fd.copy_pieces(
            source,
            self._target,
            pieces,
            buffer,
            self._unit,
            job.detect_zeroes,
            job.target.is_zero,
            self._known_data[source],
        )
        job.tally.add(data, zero, hole)
        if failure is None:
            return
        if failure.errno == 0:
            raise Error(storage.name, "ends early", offset=failure.offset, remedy="somebody cut it short")
        side = storage if failure.action in ("read", "find data") else job.target
        raise system_failure(side.name, failure.action, failure)


class FromStream(Through):
    """From a stream: read in turn, each worker into its own buffer, and settled side by side."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._at = 0
        self._ended = False

    def pull(self, buffer: memoryview) -> Segment | None:
        if self._ended:
            return None
        start = self._at
        got = self._job.source.read_next(buffer[: self.request], self._job.stop.check)
        self._at += got
        if got < self.request:
            self._ended = True
            self._job.tally.size = self._at
        return Segment(start, self._at, True, False) if got else None

    def _plan(self) -> Iterator[Segment]:
        return iter(())

    def _move(self, start: int, end: int, buffer: memoryview) -> None:
        block = buffer[: end - start]
        if self._job.digest is not None:
            self._job.digest.add_leaves(dict(leaf_digests(start, block)))
        runs = _zero.data_runs(block, self._unit) if self._job.detect_zeroes else (0, block.nbytes)
        self._put(start, block, runs)
