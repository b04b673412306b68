# SPDX-License-Identifier: Apache-2.0
"""A header written by diskcopy is read the same by diskcopy, and by QEMU where it makes a whole image."""

import json
from pathlib import Path

import pytest
import qemu_images
from hypothesis import given
from hypothesis import strategies as st

from diskcopy.errors import Unsupported
from diskcopy.formats.qcow2.header import COMPRESSION_TYPE, EXTENDED_L2, Header
from diskcopy.storage.memory import Memory

names = st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=60)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    extended = draw(st.booleans())
    zstd = draw(st.booleans())
    bits = draw(st.integers(14 if extended else 9, 21))
    size = draw(st.integers(0, 1 << 33))
    header = Header(
        size=size,
        cluster_bits=bits,
        incompatible=(EXTENDED_L2 if extended else 0)
        | (COMPRESSION_TYPE if zstd else 0)
        | draw(st.sampled_from([0, 1, 2])),
        compatible=draw(st.integers(0, 1)),
        compression=int(zstd),
        refcount_order=draw(st.integers(0, 6)),
        backing_file=draw(names),
        backing_format=draw(st.none() | st.sampled_from(["raw", "qcow2"])),
        data_file=draw(names),
        refcount_table_offset=1 << bits,
        refcount_table_clusters=1,
        l1_offset=2 << bits,
    )
    return header._replace(l1_entries=header.l1_needed)


@given(headers())
def test_parse_returns_what_was_written(header: Header) -> None:
    try:
        content = header.to_bytes()
    except Unsupported:
        assert header.cluster_bits < 11, "names of this length fit into 2 KiB"
        return
    if header.l1_entries * 8 > 1 << 22:
        return
    disk = Memory((3 << header.cluster_bits) + header.l1_entries * 8)
    disk.write(0, content)
    assert Header.parse(disk) == header


def test_qemu_reads_a_written_header(tmp_path: Path) -> None:
    path = tmp_path / "image"
    qemu_images.run("qemu-img", "create", "-q", "-f", "qcow2", str(path), "4M")
    (tmp_path / "base").write_bytes(bytes(1 << 20))
    content = bytearray(path.read_bytes())
    header = Header.parse(Memory(content))._replace(
        backing_file="base", backing_format="raw", compression=1, incompatible=COMPRESSION_TYPE
    )
    written = header.to_bytes()
    content[: len(written)] = written
    path.write_bytes(content)
    info = json.loads(qemu_images.run("qemu-img", "info", "--output=json", str(path)))
    assert (info["backing-filename"], info["backing-filename-format"]) == ("base", "raw")
    assert info["format-specific"]["data"]["compression-type"] == "zstd"
    qemu_images.run("qemu-img", "check", str(path))


def test_a_name_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Unsupported, match="larger clusters"):
        Header(1 << 20, cluster_bits=9, backing_file="n" * 500).to_bytes()
    with pytest.raises(Unsupported, match="1023"):
        Header(1 << 20, backing_file="n" * 1024).to_bytes()
