# SPDX-License-Identifier: Apache-2.0
# The words of a developer. `make demo` and `make test` set up all that they need.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Others than root often do without the folders that mke2fs and losetup live in.
export PATH := $(PATH):/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

TOOLS := $(VENV)/.tools
BUILT := build/.built
SOURCES := setup.py $(shell find ext -type f)
STUBS := $(subst /,.,$(basename $(shell find diskcopy -name '*.pyi')))
PYTEST := $(PY) -m pytest
# How many inputs `make fuzz` gives to each test.
EXAMPLES ?= 2000

.PHONY: help demo test test-slow fuzz bench build lint wheel sdist clean
.NOTPARALLEL:

help:
	@echo 'make demo       a guest disk copied every way, each copy proven'
	@echo 'make test       everything that must pass, in less than 15 minutes'
	@echo 'make test-slow  the long campaigns'
	@echo 'make fuzz       the tests of random inputs, EXAMPLES=$(EXAMPLES) of each'
	@echo 'make bench      how fast, side by side with the peers'
	@echo 'make lint       style, types, stubs, the direction of imports'
	@echo 'make build      the compiled modules, in place'
	@echo 'make wheel      dist/*.whl; make sdist: dist/*.tar.gz'
	@echo 'make clean      back to the sources, the virtual environment gone too'

demo: packages-demo $(BUILT)
	@$(PY) bench/demo.py

test: packages-test lint
	@$(PYTEST) -n 2 --dist loadgroup -m "not slow"

test-slow: packages-test $(BUILT)
	@$(PYTEST) -n 2 --dist loadgroup -m slow --timeout 3600

# hypothesis marks the tests that it feeds.
fuzz: packages-test $(BUILT)
	@FUZZ_EXAMPLES=$(EXAMPLES) $(PYTEST) -n 2 --dist loadgroup -m hypothesis --hypothesis-profile fuzz --timeout 7200

bench: packages-bench $(BUILT)
	@$(PYTEST) -o python_files='bench_*.py' bench
	@$(PYTHON) -m venv build/installed
	@build/installed/bin/python -m pip install -qq .
	@$(PY) bench/peers.py --diskcopy build/installed/bin/diskcopy

build: $(BUILT)

# Our C has no warnings; those of a compiler we have not met must not stop a user.
test lint: export CFLAGS += -Werror

lint: $(BUILT)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo
	@$(PY) -m mypy.stubtest --allowlist .ci/stubtest-allowlist --ignore-unused-allowlist $(STUBS)

wheel sdist: $(TOOLS)
	@$(PY) -m build --no-isolation --$@ --outdir dist .

clean:
	rm -rf $(VENV) build dist demo *.egg-info .benchmarks .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find diskcopy ext tests bench -name __pycache__ -prune -exec rm -r {} +
	find diskcopy -name '*.so' -delete

# Each needs what stands on the machine, and is made again when what it needs is newer.
packages-%:
	@PYTHON='$(PYTHON)' .ci/packages $*

$(TOOLS): pyproject.toml | packages-build
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("diskcopy needs Python 3.10 or newer, and $(PYTHON) is %d.%d: name another with make PYTHON=..." % sys.version_info[:2])'
	@echo 'Making the virtual environment $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -qq --upgrade pip
	@$(PY) -m pip install -qq --group test
	@$(PY) -m pip install -qq --no-build-isolation --editable .
	@touch $@

# An editable install does not rebuild what was edited.
$(BUILT): $(SOURCES) $(TOOLS)
	@$(PY) setup.py -q build_ext --inplace
	@mkdir -p $(@D)
	@touch $@
