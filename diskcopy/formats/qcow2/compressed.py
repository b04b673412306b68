# SPDX-License-Identifier: Apache-2.0
"""Compressed clusters: raw deflate or zstd, each somewhere at the start of bytes it need not fill."""

from __future__ import annotations

import threading
import zlib
from typing import TYPE_CHECKING

from diskcopy.formats.qcow2.header import ZLIB

if TYPE_CHECKING:
    import zstandard
    from typing_extensions import Buffer


class Undecodable(Exception):
    """The bytes are not a compressed cluster."""


class Decompressor:
    """Decompresses clusters of one image, in any number of threads at once."""

    def __init__(self, kind: int, cluster_size: int) -> None:
        self._size = cluster_size
        self._decode = self._inflate if kind == ZLIB else self._unzstd
        self._local = threading.local()

    def cluster(self, stored: memoryview) -> Buffer:
        """The cluster at the start of `stored`, whole. Raises Undecodable."""
        cluster = self._decode(stored)
        if len(cluster) != self._size:
            raise Undecodable(f"holds {len(cluster)} bytes of a cluster of {self._size}")
        return cluster

    def _inflate(self, stored: memoryview) -> bytes | bytearray:
        import deflate

        try:
            return deflate.deflate_decompress(stored, self._size)
        except deflate.DeflateError:
            # libdeflate wants the stream to end where the cluster does; to QEMU it is enough
            # that the cluster is full.
            try:
                return zlib.decompressobj(-15).decompress(stored, self._size)
            except zlib.error as error:
                raise Undecodable(f"is not deflated data ({error})") from None

    def _unzstd(self, stored: memoryview) -> bytes:
        import zstandard

        try:
            # A frame's own word on its size would be taken for the memory to reserve. QEMU
            # writes frames without one.
            declared = zstandard.frame_content_size(stored)
            if declared < 0:
                cluster = self._zstd().decompress(stored, max_output_size=self._size)
                if len(cluster) == self._size:
                    return cluster
            elif declared == self._size:
                return self._zstd().decompress(stored)
            # QEMU goes on with the next frame until the cluster is full.
            return self._zstd().stream_reader(stored, read_across_frames=True).read(self._size)
        except zstandard.ZstdError as error:
            raise Undecodable(f"is not zstd data ({error})") from None

    def _zstd(self) -> zstandard.ZstdDecompressor:
        """This thread's; one is not safe to share."""
        import zstandard

        found: zstandard.ZstdDecompressor | None = getattr(self._local, "zstd", None)
        if found is None:
            found = self._local.zstd = zstandard.ZstdDecompressor()
        return found
