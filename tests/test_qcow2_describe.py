# SPDX-License-Identifier: Apache-2.0
"""`describe` says of an image what `qemu-img info` says."""

import json
import random
from pathlib import Path

import pytest
import qemu_images
from qemu_images import Shape


@pytest.mark.parametrize("seed", range(8))
def test_as_qemu_img_info(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    path = qemu_images.make_chain(str(tmp_path), rng, seed % 2, Shape(version=3))
    info = json.loads(qemu_images.run("qemu-img", "info", "--output=json", path))
    with qemu_images.open_image(path) as image:
        said = image.describe()
    special = info["format-specific"]["data"]
    assert json.dumps(said)
    assert said["format"] == "qcow2"
    assert said["size"] == info["virtual-size"]
    assert said["cluster_size"] == info["cluster-size"]
    assert said["compression"] == special["compression-type"]
    assert said["refcount_bits"] == special["refcount-bits"]
    assert said["extended_l2"] == special["extended-l2"]
    assert said["corrupt"] == special["corrupt"]
    assert said["data_file"] == special.get("data-file")
    assert said["backing_file"] == info.get("backing-filename")
    assert said["backing_format"] == info.get("backing-filename-format")
    assert ("lazy refcounts" in said["features"]) == special["lazy-refcounts"]
    assert [(s["id"], s["name"]) for s in said["snapshots"]] == [
        (s["id"], s["name"]) for s in info.get("snapshots", [])
    ]
