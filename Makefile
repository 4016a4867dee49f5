# `make help` lists the targets. Each sets up what it needs in $(VENV); the second time that is a look at
# one file. PYTHON= chooses the interpreter, VENV= the environment, ARGS= are handed to the command run.

ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
endif
VENV ?= .venv
WORKERS ?= 2

PRINT_VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
VERSION := $(shell $(PYTHON) $(PRINT_VERSION) 2>/dev/null)
BIN := $(VENV)/bin

# The tested versions for this interpreter, where there are any, and the file that says that all is installed.
# LOCK=requirements/lowest.txt takes the lowest versions allowed, and LOCK=newest, which is no file, the newest.
LOCK := requirements/py$(subst .,,$(VERSION)).txt
CONSTRAINTS := $(wildcard $(LOCK))
READY := $(VENV)/.ready-$(VERSION)
BENCH_READY := $(VENV)/.bench-ready-$(VERSION)

export MPLBACKEND := Agg
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-docs test-pyro lint bench docs audit package lock lock-lowest clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## the environment in .venv, with everything installed

# An environment of another Python version is made anew; otherwise what changed is installed into it.
$(READY): pyproject.toml $(CONSTRAINTS)
	@test -n "$(VERSION)" || { echo "'$(PYTHON)' does not run: give PYTHON=, Python 3.11 or above" >&2; exit 1; }
	@echo "Setting up $(VENV) with Python $(VERSION): once, a few minutes at most"
	@test -n "$(CONSTRAINTS)" || echo "$(LOCK) does not exist: installing the newest versions allowed, untested"
	@test "$$($(BIN)/python $(PRINT_VERSION) 2>/dev/null)" = "$(VERSION)" || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq $(CONSTRAINTS:%=-c %) -e '.[all,dev]'
	@touch $@

# Networks this small are fastest on one thread, and several threads crawl when other work takes a core.
demo: setup ## compare three posterior families on the digits data; results in runs/
	OMP_NUM_THREADS=1 $(BIN)/python examples/compare_families.py $(ARGS)

# One thread a worker, so that the workers do not fight over the cores.
test: setup ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-slow: setup ## the tests that take long
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m slow --timeout 1800 $(ARGS)

test-pyro: setup ## Pyro's own tests and examples with amortvi's SVI; PYRO=path of a checkout of Pyro
	@test -n "$(PYRO)" || { echo "give PYRO=, the path of a checkout of Pyro's repository" >&2; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.pyro_suite "$(PYRO)" --workers $(WORKERS) $(ARGS)

lint: setup ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What only the benchmarks need, JAX above all, is installed when they are first run.
$(BENCH_READY): $(READY)
	@$(BIN)/python -m pip install -qq $(CONSTRAINTS:%=-c %) -e '.[bench]'
	@touch $@

bench: setup $(BENCH_READY) ## the benchmarks; ARGS="step_small --repetitions 5" for one of them
	$(BIN)/python -m benchmarks.run $(ARGS)

docs: setup ## the documentation, in docs/_build/html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet -j 2 -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

test-docs: docs ## the documentation in a browser (Chromium), at the widths of a desk and of a telephone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -m docs --timeout 600 tests/docs $(ARGS)

package: ## the distributions, checked, and the wheel in an empty environment; PYTHONS="python3.11 python3.13"
	.ci/package $(or $(PYTHONS),$(PYTHON))

audit: setup ## known vulnerabilities in the tested versions of the dependencies
	@$(BIN)/python -m pip install -qq pip-audit
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip --progress-spinner off $(patsubst %,-r %,$(wildcard requirements/*.txt))

# Installed without constraints into a fresh environment, then written down. ARGS holds a package back.
lock: ## the newest versions allowed, for this Python version, into requirements/
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet '.[all,dev]' $(ARGS)
	.venv-lock/bin/python -m pip freeze --exclude amortvi > .venv-lock/freeze
	@{ echo '# The versions that the tests run with on Python $(VERSION): constraints, not requirements.'; \
	   echo '# Renew with: make lock PYTHON=python$(VERSION)$(if $(ARGS), ARGS="$(ARGS)")'; \
	   sed -E 's/\+(cpu|cu[0-9]+|rocm[0-9.]+)$$//' .venv-lock/freeze; } > $(LOCK)
	rm -rf .venv-lock

lock-lowest: setup ## the lowest versions allowed, into requirements/lowest.txt
	@$(BIN)/python -m pip install -qq uv
	@{ echo '# The lowest versions that pyproject.toml allows: constraints, not requirements. Renew with: make lock-lowest'; \
	   $(BIN)/uv pip compile --quiet --no-header --no-annotate --resolution lowest-direct --extra all --extra test \
	     --python-version 3.11 pyproject.toml; } > requirements/lowest.txt

clean: ## remove what was built, but neither environments nor runs/
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find amortvi tests examples docs -name __pycache__ -prune -exec rm -rf {} +
