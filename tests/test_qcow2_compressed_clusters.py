# SPDX-License-Identifier: Apache-2.0
"""Compressed clusters come from streams with anything behind them; no stream makes memory explode."""

import random
import zlib

import pytest
import zstandard

from diskcopy.formats.qcow2.compressed import Decompressor, Undecodable
from diskcopy.formats.qcow2.header import ZLIB, ZSTD

SIZE = 65536
CLUSTER = random.Random(1).randbytes(3000) + bytes(SIZE - 3000)


def deflated(content: bytes, window: int = -12) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, window)
    return stream.compress(content) + stream.flush()


def streamed(content: bytes) -> bytes:
    """A frame without its content's size, as QEMU writes them."""
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(content) + stream.flush()


STREAMS = {
    "deflate": (ZLIB, deflated(CLUSTER)),
    "deflate of a 32 KiB window": (ZLIB, deflated(CLUSTER, -15)),
    "deflate of more than a cluster": (ZLIB, deflated(CLUSTER + b"more")),
    "stored deflate": (ZLIB, zlib.compressobj(0, zlib.DEFLATED, -15).compress(b"") + deflated(CLUSTER)),
    "zstd without a size": (ZSTD, streamed(CLUSTER)),
    "zstd with its size": (ZSTD, zstandard.compress(CLUSTER)),
    "zstd in two frames": (ZSTD, streamed(CLUSTER[:1000]) + zstandard.compress(CLUSTER[1000:])),
    "zstd after an empty frame": (ZSTD, zstandard.compress(b"") + streamed(CLUSTER)),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("behind", [b"", bytes(511), b"\xff" * 511, STREAMS["zstd with its size"][1]])
def test_bytes_behind_the_stream_do_not_matter(name: str, behind: bytes) -> None:
    kind, stream = STREAMS[name]
    assert bytes(Decompressor(kind, SIZE).cluster(memoryview(stream + behind))) == CLUSTER


@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        (ZLIB, deflated(CLUSTER[:-1])),
        (ZLIB, deflated(CLUSTER)[:-20]),
        (ZLIB, b""),
        (ZLIB, b"\xff" * 100),
        (ZSTD, streamed(CLUSTER[:-1])),
        (ZSTD, zstandard.compress(CLUSTER[:-1])),
        (ZSTD, streamed(CLUSTER)[:-20]),
        (ZSTD, b""),
        (ZSTD, b"\xff" * 100),
        # A frame that says it holds 2**62 bytes.
        (ZSTD, b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\x01\x00\x00"),
    ],
)
def test_what_is_not_a_whole_cluster_is_said_to_be_so(kind: int, stream: bytes) -> None:
    with pytest.raises(Undecodable):
        Decompressor(kind, SIZE).cluster(memoryview(stream))


@pytest.mark.parametrize("kind", [ZLIB, ZSTD])
def test_damaged_streams_end_in_undecodable_or_a_whole_cluster(kind: int) -> None:
    rng = random.Random(kind)
    stream = deflated(CLUSTER) if kind == ZLIB else streamed(CLUSTER)
    decompressor = Decompressor(kind, SIZE)
    for _ in range(1000):
        damaged = bytearray(stream)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(min(len(damaged), rng.choice([16, 4000])))] ^= 1 << rng.randrange(8)
        try:
            cluster = memoryview(decompressor.cluster(memoryview(damaged)))
        except Undecodable:
            continue
        assert cluster.nbytes == SIZE
