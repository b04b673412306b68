# SPDX-License-Identifier: Apache-2.0
"""Only the compiled half: ext/**/NAME.pyx becomes the module of the same path."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

EXT = Path("ext")
UTILITY = "diskcopy._cyutility"


def extension(source: Path) -> Extension:
    module = ".".join(source.relative_to(EXT).with_suffix("").parts)
    return Extension(
        module,
        [str(source)],
        include_dirs=["ext/diskcopy/c"],
        depends=[str(header) for header in EXT.glob("diskcopy/c/*.h")],
        # No -march: kernels choose their instructions at run time.
        extra_compile_args=["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-cast-function-type"],
        define_macros=[("_GNU_SOURCE", "1"), ("_FILE_OFFSET_BITS", "64")],
    )


setup(
    ext_modules=cythonize(
        [*map(extension, sorted(EXT.rglob("*.pyx"))), Extension(UTILITY, [])],
        include_path=[str(EXT)],
        build_dir="build/cython",
        shared_utility_qualified_name=UTILITY,
        compiler_directives={
            "language_level": "3",
            "embedsignature": True,
        },
    ),
)
