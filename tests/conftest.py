# SPDX-License-Identifier: Apache-2.0
"""What all tests share: loop devices and mounts, the leak check, and no silent skips."""

from __future__ import annotations

import gc
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sshd import Sshd
from wan_proxy import WanProxy

IN_CI = os.environ.get("CI", "").lower() in ("true", "1")

# The machine may be busy with other work: how long an example takes says nothing.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile(
    "fuzz", settings.get_profile("default"), max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000"))
)
settings.load_profile("ci" if IN_CI else "default")


# --- no silent skips ------------------------------------------------------------------


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter else 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that did not run is a test that failed."""
    if IN_CI and session.exitstatus == pytest.ExitCode.OK and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if IN_CI and _skipped(config):
        terminalreporter.write_line("CI=true: a skipped test fails the run", red=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root, for loop devices and mounts")


# --- leaks ----------------------------------------------------------------------------


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one of the listing itself
            continue
    return found


def _left_over(descriptors: dict[int, str], threads: set[threading.Thread]) -> list[str]:
    left = [f"descriptor {fd}: {what}" for fd, what in _descriptors().items() if descriptors.get(fd) != what]
    return left + [f"thread {one.name}" for one in threading.enumerate() if one not in threads]


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Each test ends with the descriptors and threads that it began with."""
    descriptors, threads = _descriptors(), set(threading.enumerate())
    yield
    left = _left_over(descriptors, threads)
    deadline = time.monotonic() + 2
    while left and time.monotonic() < deadline:
        # What only the garbage collector frees, and threads on their way out, are no leaks.
        gc.collect()
        time.sleep(0.02)
        left = _left_over(descriptors, threads)
    assert not left, f"left over by the test: {', '.join(left)}"


# --- loop devices and mounts ----------------------------------------------------------


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout.strip()


def _attach(path: Path, options: tuple[str, ...]) -> str:
    """The loop device that `path` got; waits while others use all there are."""
    deadline = time.monotonic() + 60
    while True:
        free = subprocess.run(
            ["losetup", "--find"], capture_output=True, text=True, check=False
        ).stdout.strip()
        if free and not os.path.exists(free):
            # A container without udev: the kernel has the device, and /dev has no name for it.
            with suppress(FileExistsError):
                os.mknod(free, 0o660 | stat.S_IFBLK, os.makedev(7, int(free.removeprefix("/dev/loop"))))
        # Between the question and the answer another test may take it; losetup --find asks again.
        done = subprocess.run(
            ["losetup", "--find", "--show", *options, str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout.strip()
        assert time.monotonic() < deadline, f"no loop device for {path}: {done.stderr.strip()}"
        time.sleep(0.2)


@pytest.fixture
def loop_device() -> Iterator[Callable[..., str]]:
    """`loop_device(path, *losetup_options)`: a block device over the file, gone after the test.

    For tests that carry `@pytest.mark.root`.
    """
    with ExitStack() as ends:

        def attach(path: Path, *options: str) -> str:
            device = _attach(path, options)
            ends.callback(_run, "losetup", "--detach", device)
            return device

        yield attach


@pytest.fixture
def mounted(tmp_path: Path, loop_device: Callable[..., str]) -> Iterator[Callable[[str, int], Path]]:
    """`mounted("xfs", size)`: a folder on an empty filesystem of that kind and size in bytes, gone
    after the test. Kinds: tmpfs, and whatever has a mkfs ("exfat" has no holes, "xfs" has reflinks).

    For tests that carry `@pytest.mark.root`.
    """
    with ExitStack() as ends:

        def mount(kind: str, size: int) -> Path:
            folder = tmp_path / f"mounted-{kind}-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            if kind == "tmpfs":
                _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
            else:
                medium = folder.with_suffix(".img")
                with open(medium, "wb") as file:
                    file.truncate(size)
                _run(f"mkfs.{kind}", str(medium))
                # exFAT comes from a FUSE program, which mount finds by another name.
                helper = {"exfat": "exfat-fuse"}.get(kind, kind)
                _run("mount", "-t", helper, loop_device(medium), str(folder))
            ends.callback(_run, "umount", "--lazy", str(folder))
            return folder

        yield mount


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, compiled modules and all, that a build may write into."""
    root = Path(__file__).resolve().parent.parent
    copy = tmp_path_factory.mktemp("tree") / "diskcopy"
    shutil.copytree(
        root, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "dist", "demo", "*.egg-info")
    )
    return copy


# --- a far side -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host "kool" with Python and SFTP; tests that change it make their own with `Sshd`."""
    with Sshd(tmp_path_factory.mktemp("kool")) as one:
        yield one


@pytest.fixture
def wan(sshd: Sshd, tmp_path: Path) -> Iterator[Callable[..., WanProxy]]:
    """`wan(rtt=0.02, rate=1e9, drop_after=0)`: a long thin way to `sshd`; its `config` leads there."""
    with ExitStack() as ends:

        def lay(**properties: float) -> WanProxy:
            proxy = ends.enter_context(WanProxy(sshd.port, **properties))
            # The keys are those of the host behind it, so it is known by that name.
            proxy.config = sshd.configure(
                f"Port {proxy.port}", f"HostKeyAlias {sshd.host}", name=f"ssh_config-{proxy.port}"
            )
            return proxy

        yield lay
