from array import array
from typing import final

from typing_extensions import Buffer

from diskcopy.errors import FdFailure

ACTIONS: tuple[str, ...]

@final
class KnownData: ...

def read_into(fd: int, buffer: Buffer, offset: int) -> int: ...
def write_from(fd: int, buffer: Buffer, offset: int) -> None: ...
def data_ranges(
    fd: int, start: int, end: int, most: int, known: KnownData | None = None
) -> tuple[array[int], int]: ...
def make_zero(fd: int, start: int, end: int, punch: bool) -> None: ...
def start_writeback(fd: int, offset: int, length: int) -> None: ...
def clone(source: int, target: int) -> bool: ...
def copy_range(
    source: int,
    target: int,
    start: int,
    end: int,
    buffer: Buffer,
    granularity: int,
    detect_zeroes: bool,
    target_is_zero: bool,
    known: KnownData | None = None,
) -> tuple[int, int, int, FdFailure | None]: ...
