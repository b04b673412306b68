# SPDX-License-Identifier: Apache-2.0
"""How fast is diskcopy beside the tools people use today? Whole processes, in one run, in turn.

    python bench/peers.py [--rounds 7] [--only TEXT]

For each case every contender runs once a round, one after another, its target removed and
the disks synced before; after the last round come best, median, peak memory, and the ratio
of our best to the fastest peer's best. Shared disks make medians of one and the same
command differ by a factor of two, and bests by a tenth: that is why bests are compared.

The guest is a real one, with deleted files in its free space. It is built once, by
make_guest.sh (as root, a few minutes), and kept in --cache, with the images made from it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import report
from far_host import FarHost

HERE = Path(__file__).resolve().parent
MAKE_GUEST = HERE.parent.parent / "shared/tools/make_guest.sh"
CONVERT = "qemu-img convert -W -m 16"


class Case(NamedTuple):
    """One question. Commands may name {files}; {out} is removed before each run."""

    name: str
    ours: str
    peers: Sequence[str]
    limit: float
    note: str = ""
    # Compares a finished target of ours with the peer's: a reason to fail the case, or "".
    check: Callable[[Bench], str] | None = None
    # Where a peer takes minutes, fewer rounds than the others.
    rounds: int | None = None
    # Seconds that ours may take beyond the peer's, where that is asked for instead of a ratio.
    allowance: float | None = None


class Run(NamedTuple):
    seconds: float
    memory: int


class Bench:
    """The files the cases name, and the way one command is run and timed."""

    def __init__(self, cache: Path, scratch: Path, diskcopy: str) -> None:
        self.scratch = scratch
        self.files = {
            "diskcopy": diskcopy,
            "python": sys.executable,
            "convert": CONVERT,
            "out": str(scratch / "out"),
            "guest": str(cache / "guest.raw"),
            "qcow2": str(cache / "guest.qcow2"),
            "zlib": str(cache / "guest-zlib.qcow2"),
            "zstd": str(cache / "guest-zstd.qcow2"),
            "empty": str(cache / "empty.raw"),
            "million": str(cache / "million.raw"),
            "data": str(cache / "guest.data"),
            "small": str(cache / "small.raw"),
        }

    def prepare(self) -> None:
        """Make what is missing in the cache, and bring the sources into memory."""
        guest = Path(self.files["guest"])
        guest.parent.mkdir(parents=True, exist_ok=True)
        if not guest.exists():
            if not MAKE_GUEST.exists():
                sys.exit(f"put a guest's raw disk at {guest}, or the script that builds one at {MAKE_GUEST}")
            subprocess.run(["bash", str(MAKE_GUEST), f"{guest}.new"], check=True)
            os.rename(f"{guest}.new", guest)
        self._convert("qcow2", "-O qcow2")
        self._convert("zlib", "-c -O qcow2")
        self._convert("zstd", "-c -O qcow2 -o compression_type=zstd")
        with open(self.files["empty"], "wb") as file:
            file.truncate(8 << 40)
        if not os.path.exists(self.files["data"]):
            make_data_alone(guest, Path(self.files["data"]))
        Path(self.files["small"]).write_bytes(os.urandom(1 << 20))
        if not os.path.exists(self.files["million"]):
            make_million_extents(Path(self.files["million"]))

    def _convert(self, name: str, options: str) -> None:
        if not os.path.exists(self.files[name]):
            new = f"{self.files[name]}.new"
            subprocess.run([*f"{CONVERT} {options}".split(), self.files["guest"], new], check=True)
            os.rename(new, self.files[name])

    def warm(self, case: Case) -> None:
        """Read the case's sources, so that they are in memory for everybody."""
        for name, path in self.files.items():
            if f"{{{name}}}" in case.ours and name in ("guest", "qcow2", "zlib", "zstd", "million", "data"):
                subprocess.run(["cp", path, "/dev/null"], check=True)

    def run(self, command: str) -> Run:
        """Run a command as a whole process, to its end, on a clean slate."""
        Path(self.files["out"]).unlink(missing_ok=True)
        os.sync()
        began = time.monotonic()
        process = subprocess.Popen(
            command.format(**self.files), shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"exit {process.returncode}: {command.format(**self.files)}")
        return Run(seconds, usage.ru_maxrss * 1024)


def make_data_alone(disk: Path, path: Path) -> None:
    """The blocks of 4 KiB of a disk that are not zero, one after another."""
    zeroes = bytes(4096)
    with open(disk, "rb") as source, open(path.with_suffix(".new"), "wb") as target:
        while block := source.read(4096):
            if block != zeroes[: len(block)]:
                target.write(block)
    path.with_suffix(".new").rename(path)


def make_million_extents(path: Path) -> None:
    """4 KiB of data every 8 KiB, a million times."""
    block = os.urandom(4096)
    with open(path.with_suffix(".new"), "wb") as file:
        file.truncate(1_000_000 * 8192)
        for n in range(1_000_000):
            os.pwrite(file.fileno(), block, n * 8192)
    path.with_suffix(".new").rename(path)


def no_larger_than_qemu(bench: Bench) -> str:
    ours, theirs = (Path(bench.files[name]) for name in ("out", "zlib"))
    bench.run("exec {diskcopy} copy --json --compress zlib {guest} {out} -O qcow2")
    sizes = ours.stat().st_size, theirs.stat().st_size
    return "" if sizes[0] <= sizes[1] else f"output has {sizes[0]} bytes, qemu-img's {sizes[1]}"


COPY = "exec {diskcopy} copy --json --no-flush"

FROM_FAR = f"{COPY} --ssh-config {{config}}"

CASES = [
    Case(
        "raw -> raw",
        f"{COPY} {{guest}} {{out}}",
        [
            "exec cp --sparse=auto {guest} {out}",
            "exec cp --sparse=always {guest} {out}",
            "exec nbdcopy {guest} {out}",
            "exec {convert} -O raw {guest} {out}",
        ],
        0.85,
    ),
    Case(
        "raw -> raw, on stable storage",
        "exec {diskcopy} copy --json {guest} {out}",
        [
            "cp --sparse=auto {guest} {out} && sync {out}",
            "exec nbdcopy --flush {guest} {out}",
            "{convert} -O raw {guest} {out} && sync {out}",
        ],
        0.85,
        note="each waits for the disk",
    ),
    Case(
        "raw -> qcow2", f"{COPY} -O qcow2 {{guest}} {{out}}", ["exec {convert} -O qcow2 {guest} {out}"], 0.85
    ),
    Case("qcow2 -> raw", f"{COPY} {{qcow2}} {{out}}", ["exec {convert} -O raw {qcow2} {out}"], 0.90),
    Case(
        "raw -> qcow2, zlib",
        f"{COPY} -O qcow2 --compress zlib {{guest}} {{out}}",
        ["exec {convert} -c -O qcow2 {guest} {out}"],
        0.15,
        check=no_larger_than_qemu,
    ),
    Case(
        "raw -> qcow2, zstd",
        f"{COPY} -O qcow2 --compress zstd {{guest}} {{out}}",
        ["exec {convert} -c -O qcow2 -o compression_type=zstd {guest} {out}"],
        0.85,
    ),
    Case("qcow2, zlib -> raw", f"{COPY} {{zlib}} {{out}}", ["exec {convert} -O raw {zlib} {out}"], 0.40),
    Case("qcow2, zstd -> raw", f"{COPY} {{zstd}} {{out}}", ["exec {convert} -O raw {zstd} {out}"], 0.70),
    Case(
        "compare raw with qcow2",
        "exec {diskcopy} compare {guest} {qcow2}",
        ["exec qemu-img compare {guest} {qcow2}"],
        0.60,
    ),
    Case(
        "ssh raw -> raw",
        f"{FROM_FAR} ssh://kool/{{guest}} {{out}}",
        [
            "exec nbdcopy -- [ {nbdkit_ssh}{guest} ] {out}",
            "exec rsync -S -e 'ssh -F {config}' kool:{guest} {out}",
            "exec scp -q -F {config} kool:{guest} {out}",
            "ssh -F {config} kool cat {guest} | dd conv=sparse bs=1M of={out} status=none",
            "ssh -F {config} kool 'cd $(dirname {guest}) && tar -Scf - $(basename {guest})'"
            " | tar -xSOf - > {out}",
        ],
        0.50,
        rounds=3,
    ),
    Case(
        "ssh raw -> raw, against qemu-img",
        f"{FROM_FAR} ssh://kool/{{guest}} {{out}}",
        ["exec qemu-img convert -W -m 16 --image-opts {qemu_ssh}{guest} -O raw {out}"],
        0.08,
        rounds=1,
    ),
    Case(
        "ssh raw -> raw, against cat of the data alone",
        f"{FROM_FAR} ssh://kool/{{guest}} {{out}}",
        ["exec ssh -F {config} kool cat {data} > /dev/null"],
        1.25,
        rounds=5,
    ),
    Case(
        "raw -> ssh raw",
        f"{FROM_FAR} {{guest}} ssh://kool/{{out}}",
        [
            "exec rsync -S -e 'ssh -F {config}' {guest} kool:{out}",
            "exec scp -q -F {config} {guest} kool:{out}",
        ],
        0.45,
        rounds=3,
    ),
    Case(
        "ssh raw -> raw, 20 ms and 1 Gbit/s, against cat of the data alone",
        f"{COPY} --ssh-config {{distant}} ssh://kool/{{guest}} {{out}}",
        ["exec ssh -F {distant} kool cat {data} > /dev/null"],
        1.25,
        rounds=3,
    ),
    Case(
        "ssh raw -> raw by SFTP, 20 ms and 1 Gbit/s",
        f"{COPY} --ssh-backend sftp --ssh-config {{distant}} ssh://kool/{{data}} {{out}}",
        ["exec scp -q -F {distant} kool:{data} {out}"],
        1.1,
        rounds=3,
    ),
    Case(
        "ssh, an image of 1 MiB",
        f"{FROM_FAR} ssh://kool/{{small}} {{out}}",
        ["exec scp -q -F {config} kool:{small} {out}"],
        1.5,
    ),
    Case(
        "empty 8 TiB raw -> raw",
        f"{COPY} {{empty}} {{out}}",
        ["exec {python} -c pass", "exec {convert} -O raw {empty} {out}"],
        0,
        note="against starting Python",
        allowance=0.3,
    ),
    Case(
        "empty 8 TiB raw -> qcow2",
        f"{COPY} -O qcow2 {{empty}} {{out}}",
        ["exec {python} -c pass", "exec {convert} -O qcow2 {empty} {out}"],
        0,
        note="against starting Python",
        allowance=0.3,
    ),
    Case(
        "map of 1,000,000 extents",
        "exec {diskcopy} map {million}",
        ["exec qemu-img map -f raw {million}"],
        1.0,
    ),
    Case(
        "map of 1,000,000 extents, JSON",
        "exec {diskcopy} map --json {million}",
        ["exec qemu-img map -f raw --output=json {million}"],
        1.0,
    ),
    Case(
        "copy of 1,000,000 extents",
        f"{COPY} {{million}} {{out}}",
        ["exec {convert} -f raw -O raw {million} {out}"],
        1.0,
    ),
]

MEMORY_LIMIT = 150 << 20


def measure(bench: Bench, case: Case, rounds: int) -> dict[str, Any]:
    """All rounds of a case, ours and the peers' in turn."""
    bench.warm(case)
    commands = [case.ours, *case.peers]
    runs: dict[str, list[Run]] = {command: [] for command in commands}
    for number in range(rounds):
        # Who goes first changes from round to round, so that nobody always finds the same caches.
        for command in commands[number % len(commands) :] + commands[: number % len(commands)]:
            runs[command].append(bench.run(command))
    rows = [
        {
            "command": command.removeprefix("exec ").format(**names_for_people(bench)),
            "best": min(run.seconds for run in timed),
            "median": statistics.median(run.seconds for run in timed),
            "seconds": [round(run.seconds, 3) for run in timed],
            "memory": max(run.memory for run in timed),
        }
        for command, timed in runs.items()
    ]
    ours, *peers = rows
    # A difference is asked for from the first peer, a ratio from the fastest.
    rival = peers[0] if case.allowance is not None else min(peers, key=lambda row: row["best"])
    value = ours["best"] - rival["best"] if case.allowance is not None else ours["best"] / rival["best"]
    limit = case.limit if case.allowance is None else case.allowance
    return {
        "case": case.name,
        "note": case.note,
        "rows": rows,
        "rival": rival["command"],
        "unit": "ratio" if case.allowance is None else "s more",
        "value": value,
        "median": ours["median"] / rival["median"],
        "limit": limit,
        "problem": case.check(bench) if case.check else "",
        "reached": value <= limit and ours["memory"] <= MEMORY_LIMIT,
    }


def names_for_people(bench: Bench) -> dict[str, str]:
    known = {
        "python": "python",
        "diskcopy": "diskcopy",
        "convert": CONVERT,
        "qemu_ssh": "driver=raw,file.driver=ssh,...,file.path=",
        "nbdkit_ssh": "nbdkit ssh ... path=",
    }
    return {name: known.get(name, Path(path).name) for name, path in bench.files.items()}


def zero_scan(rounds: int) -> dict[str, Any]:
    """The zero scan of memory that is not in cache, against memcmp over the same memory."""
    import ctypes
    import mmap

    from diskcopy import _zero

    size = 1 << 30
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(bytes(size))
    held = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(held)
    libc = ctypes.CDLL(None)
    libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    timed: dict[str, list[float]] = {"zero scan": [], "memcmp of the two halves": []}
    for _ in range(3 * rounds):
        for name, scan in (
            ("zero scan", lambda: _zero.is_zero(memory)),
            ("memcmp of the two halves", lambda: libc.memcmp(address, address + size // 2, size // 2)),
        ):
            began = time.perf_counter()
            scan()
            timed[name].append(time.perf_counter() - began)
    del held
    rows = [
        {
            "command": name,
            "best": min(seconds),
            "median": statistics.median(seconds),
            "seconds": [round(second, 4) for second in seconds],
            "memory": 0,
        }
        for name, seconds in timed.items()
    ]
    value = rows[0]["best"] / rows[1]["best"]
    return {
        "case": f"zero scan of 1 GiB, {_zero.kernel()}",
        "note": "in one process",
        "rows": rows,
        "rival": "memcmp of the two halves",
        "unit": "ratio",
        "value": value,
        "median": rows[0]["median"] / rows[1]["median"],
        "limit": 1.0,
        "problem": "",
        "reached": value <= 1.0,
    }


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['case']}" + (f" ({result['note']})" if result["note"] else ""))
    for row in result["rows"]:
        memory = f"{row['memory'] / (1 << 20):5.0f} MiB" if row["memory"] else " " * 9
        print(f"  {row['best']:8.3f} s best {row['median']:8.3f} s median {memory}  {row['command']}")
    verdict = "reached" if result["reached"] and not result["problem"] else "MISSED"
    print(
        f"  {result['value']:.2f} {result['unit']} (medians {result['median']:.2f}), "
        f"to reach {result['limit']:.2f}: {verdict} {result['problem']}",
        flush=True,
    )


def about_machine(bench: Bench) -> dict[str, Any]:
    def first_line(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]

    facts = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((fact.split(":")[1].strip() for fact in facts if fact.startswith("model name")), "?")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "processor": f"{len(os.sched_getaffinity(0))} x {model}",
        "filesystem": first_line("stat", "-f", "-c", "%T", bench.files["guest"]),
        "python": platform.python_version(),
        "versions": [
            first_line(bench.files["diskcopy"], "--version"),
            first_line("qemu-img", "--version"),
            first_line("nbdcopy", "--version"),
            first_line("cp", "--version"),
        ],
        "guest": f"{os.stat(bench.files['guest']).st_blocks * 512} bytes of data in "
        f"{os.stat(bench.files['guest']).st_size}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="only the cases whose name has this text")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parser.add_argument("--cache", type=Path, default=Path(cache) / "diskcopy-bench")
    parser.add_argument("--diskcopy", default=str(Path(sys.executable).with_name("diskcopy")))
    args = parser.parse_args()

    scratch = args.cache / "scratch"
    bench = Bench(args.cache, scratch, args.diskcopy)
    bench.prepare()
    scratch.mkdir(exist_ok=True)
    results = []
    try:
        with FarHost(scratch / "kool") as far:
            bench.files.update(far.words)
            for case in CASES:
                if args.only in case.name:
                    results.append(measure(bench, case, min(args.rounds, case.rounds or args.rounds)))
                    show(results[-1])
        if args.only in "zero scan":
            results.append(zero_scan(args.rounds))
            show(results[-1])
    finally:
        shutil.rmtree(scratch)
    save(bench, results)


def save(bench: Bench, results: list[dict[str, Any]]) -> None:
    """Put the results in the place of earlier ones of the same cases, and renew what shows them."""
    earlier = json.loads(report.RESULTS.read_text())["results"] if report.RESULTS.exists() else []
    found = {result["case"]: result for result in (*earlier, *results)}
    order = [case.name for case in CASES]
    listed = sorted(found.values(), key=lambda row: (*order, row["case"]).index(row["case"]))
    about = {"machine": about_machine(bench), "results": listed}
    report.RESULTS.write_text(json.dumps(about, indent=1) + "\n")
    report.main()


if __name__ == "__main__":
    main()
