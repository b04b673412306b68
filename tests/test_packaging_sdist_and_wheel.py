# SPDX-License-Identifier: Apache-2.0
"""The sdist holds all sources and the wheel built from it all that runs, and no more; installed, it works."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.xdist_group("packaging")

ROOT = Path(__file__).resolve().parent.parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


class Built(NamedTuple):
    sdist: Path
    wheel: Path


def elsewhere() -> dict[str, str]:
    """The environment without what would lead back to this tree."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def built(source_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, the wheel from the sdist, which shows that nothing is missing in there."""
    folder = tmp_path_factory.mktemp("dist")
    # Quick to compile, the names are the point: what -O3 makes runs in all other tests.
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source_tree],
        env=elsewhere() | {"CFLAGS": "-O0"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Built(sdist, wheel)


def sources(folder: str, *suffixes: str) -> Iterator[str]:
    for path in (ROOT / folder).rglob("*"):
        if path.suffix in suffixes and "__pycache__" not in path.parts:
            yield str(path.relative_to(ROOT))


def test_the_sdist_has_all_sources(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "setup.py",
        "pyproject.toml",
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
    }
    wanted |= {".ci/debian-packages", ".ci/packages", ".ci/run"}
    wanted |= {*sources("ext", ".pyx", ".pxd", ".h"), *sources("diskcopy", ".py", ".pyi", ".typed")}
    wanted |= {*sources("tests", ".py"), *sources("bench", ".py"), *sources("docs", ".md", ".svg")}
    assert wanted - names == set()
    assert [name for name in names if name.endswith((".so", ".c", ".pyc"))] == []


def test_the_wheel_has_what_runs_and_no_more(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    compiled = {str(Path(name).relative_to("ext").with_suffix(SUFFIX)) for name in sources("ext", ".pyx")}
    wanted = {*sources("diskcopy", ".py", ".pyi", ".typed"), *compiled, f"diskcopy/_cyutility{SUFFIX}"}
    assert names == wanted


def test_each_compiled_module_has_a_stub() -> None:
    assert {name.removeprefix("ext/").removesuffix(".pyx") for name in sources("ext", ".pyx")} == {
        name.removesuffix(".pyi") for name in sources("diskcopy", ".pyi")
    }


def test_the_installed_wheel_works_away_from_the_tree(built: Built, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # What it depends on comes from the packages of the running interpreter, to save the time.
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "lent.pth").write_text("\n".join(sorted(lent)) + "\n")

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, env=elsewhere(), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        built.wheel,
    )
    where = run(python, "-c", "import diskcopy, diskcopy._fd as fd; print(diskcopy.__file__, fd.__file__)")
    assert [Path(name).is_relative_to(site) for name in where.split()] == [True, True]
    assert "copy" in run(environment / "bin" / "diskcopy", "--help")

    source = tmp_path / "source.raw"
    source.write_bytes(bytes(1 << 20) + b"data" + bytes(5000))
    run(environment / "bin" / "diskcopy", "copy", source, tmp_path / "target.qcow2")
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, tmp_path / "target.qcow2")


def test_building_needs_what_the_build_group_names() -> None:
    """`make` builds without isolation, so the group must hold what isolation would install."""
    text = (ROOT / "pyproject.toml").read_text()
    (requires,) = (line.partition("= ")[2] for line in text.splitlines() if line.startswith("requires = "))
    (group,) = (line.partition("= ")[2] for line in text.splitlines() if line.startswith("build = "))
    assert requires == group


@pytest.mark.slow
@pytest.mark.parametrize("how", ["path", "editable", "sdist"])
def test_pip_installs_it_into_an_empty_environment(
    how: str, built: Built, source_tree: Path, tmp_path: Path
) -> None:
    """With isolation and all that it depends on, as a user does."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    what: list[str | Path] = {"path": [source_tree], "editable": ["-e", source_tree], "sdist": [built.sdist]}[
        how
    ]
    subprocess.run(
        [environment / "bin" / "pip", "install", "-q", *what], env=elsewhere(), cwd=tmp_path, check=True
    )
    for command in ("diskcopy", "--help"), ("python", "-c", "import diskcopy; diskcopy.copy"):
        subprocess.run(
            [environment / "bin" / command[0], *command[1:]], env=elsewhere(), cwd=tmp_path, check=True
        )
