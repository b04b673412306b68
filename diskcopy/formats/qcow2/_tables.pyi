from array import array

from typing_extensions import Buffer

def runs(
    table: Buffer,
    base: int,
    start: int,
    end: int,
    cluster_bits: int,
    extended: bool,
    external: bool,
    version_2: bool,
    reading: bool,
    most: int,
) -> array[int]: ...
def next_used(l1: Buffer, first: int, end: int) -> int: ...
def count_used(l1: Buffer) -> int: ...
def clear(buffer: Buffer) -> None: ...
