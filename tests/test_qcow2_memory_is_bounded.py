# SPDX-License-Identifier: Apache-2.0
"""Tables of any number take a bounded part of memory."""

import struct

import pytest

from diskcopy.extents import Extent
from diskcopy.formats.qcow2.header import Header
from diskcopy.formats.qcow2.reader import Qcow2
from diskcopy.storage.memory import Memory

MiB = 1 << 20


@pytest.mark.parametrize(("bits", "tables"), [(9, 30000), (14, 1200), (21, 12)])
def test_the_table_cache_forgets(bits: int, tables: int) -> None:
    cluster = 1 << bits
    l1_clusters = -(-8 * tables // cluster)
    header = Header(
        size=tables << (2 * bits - 3),
        cluster_bits=bits,
        l1_offset=2 * cluster,
        l1_entries=tables,
        refcount_table_offset=cluster,
        refcount_table_clusters=1,
    )
    storage = Memory((2 + l1_clusters + tables) * cluster)
    storage.write(0, header.to_bytes())
    first = (2 + l1_clusters) * cluster
    places = range(first, first + tables * cluster, cluster)
    storage.write(header.l1_offset, struct.pack(f">{tables}Q", *places))
    image = Qcow2(storage)
    assert list(image.extents()) == [Extent(0, header.size, True, True)]
    cache = image._lookup._cache
    assert 8 * MiB < sum(map(len, cache.values())) + 200 * len(cache) <= 16 * MiB
