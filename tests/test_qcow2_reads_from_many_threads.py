# SPDX-License-Identifier: Apache-2.0
"""Threads that read one image at once all get its bytes."""

import random
import threading
from pathlib import Path

import qemu_images
from qemu_images import KiB, MiB, Shape


def test_six_threads(tmp_path: Path) -> None:
    rng = random.Random(7)
    wish = Shape(
        version=3, cluster_size=4 * KiB, size=8 * MiB, operations=60, data_file=False, extended_l2=False
    )
    path = qemu_images.make_chain(str(tmp_path), rng, 1, wish)
    want = qemu_images.content(path)
    wrong: list[object] = []
    with qemu_images.open_image(path) as image:

        def work(seed: int) -> None:
            own = random.Random(seed)
            try:
                for _ in range(150):
                    start = own.randrange(len(want))
                    length = min(own.choice([512, 5000, 70000, MiB]), len(want) - start)
                    if image.read(start, length) != want[start : start + length]:
                        wrong.append((start, length))
            except BaseException as error:
                wrong.append(error)
                raise

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
