# Every target makes the virtual environment it needs in .venv and reuses it
# afterwards. A change of pyproject.toml brings it up to date. To choose the
# interpreter: make PYTHON=/path/to/python test (after `make clean`, if .venv is
# already there).

PYTHON ?=
ARGS ?=
PEERS ?= numba 'jax>=0.12' 'pytensor>=3.3' torch

# Fixed, because `make clean` deletes it.
VENV := .venv
BIN := $(VENV)/bin

EXTRAS_demo := demo
EXTRAS_test := test,demo
EXTRAS_lint := lint,test
EXTRAS_docs := docs
EXTRAS_gpu := gpu
# So that pip does not fetch what is of no use here; torch for a GPU takes gigabytes.
CONSTRAINTS_gpu := --constraint .ci/constraints.txt

# What is not installed cannot be covered.
export OSTINATO_UNCOVERED := $(if $(wildcard $(VENV)/.stamp-gpu),none,*/backends/triton/*)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test conformance coverage test-gpu lint docs bench format clean

help:  ## show this list
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.stamp-demo  ## run the example: examples/garch.py
	@$(BIN)/python examples/garch.py $(ARGS)

test: $(VENV)/.stamp-test  ## run the tests and the code in the docs; ARGS="-k scan" narrows them
	@$(BIN)/python -m pytest -n auto $(ARGS)

conformance: $(VENV)/.stamp-test  ## run the conformance suite, all derivatives; ARGS="--only until" narrows it
	@$(BIN)/python -m ostinato conformance $(ARGS)

# Twice as slow as `make test`. A run narrowed by ARGS is not held to the coverage floor.
coverage: $(VENV)/.stamp-test  ## run the tests and tell which lines they do not reach
	@$(BIN)/python -m pytest -n auto --cov $(if $(strip $(ARGS)),--cov-fail-under=0) $(ARGS)

# With what is installed: torch is chosen by whoever has a GPU, to fit its driver.
test-gpu: $(VENV)/.stamp-test  ## run the tests of the GPU backend on a GPU; install ostinato[gpu] into .venv first
	@$(BIN)/python tools/gpu.py
	@OSTINATO_TEST_GPU=1 $(BIN)/python -m pytest $(ARGS) $(sort $(wildcard tests/test_gpu_*.py)) docs/how-to/run-on-a-gpu.md

lint: $(VENV)/.stamp-lint  ## check style, formatting and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.stamp-docs  ## build the documentation in docs/_build/html
	@$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html
	@echo "docs: open docs/_build/html/index.html"

# Peers are welcome and not needed: without PEERS, or where they cannot be installed, their cells are empty.
bench: $(VENV)/.stamp-demo  ## time all workloads on all systems; ARGS="--only LSTM --quick" narrows, PEERS="numba" chooses
	@$(if $(strip $(PEERS)),$(MAKE) --no-print-directory $(VENV)-bench/.stamp-peers || echo "bench: without peers")
	@$(BIN)/python benchmarks/run.py $(if $(strip $(ARGS)),$(ARGS),--write)

format: $(VENV)/.stamp-lint  ## fix what ruff can fix, then format
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:  ## delete everything made here, .venv included
	rm -rf $(VENV) $(VENV)-bench build dist htmlcov docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f .coverage .coverage.*
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The environments themselves. A candidate counts only if it runs (a version manager
# may leave shims that do not) and is new enough.
define make_environment
	@python=; \
	for candidate in $(or $(PYTHON),$(2)); do \
	    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, $(1)))' >/dev/null 2>&1; then \
	        python=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: $(if $(PYTHON),'$(PYTHON)' is not a working Python 3.$(1) or newer,no working Python 3.$(1) or newer was found)." >&2; \
	    echo "make: install one, or name one: make PYTHON=/path/to/python ..." >&2; \
	    exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "make: $$python lacks the venv module (on Debian and Ubuntu it is the package python3-venv)." >&2; \
	    exit 1; \
	fi; \
	echo "setup: making $(@D) with $$($$python --version)"; \
	$$python -m venv --clear $(@D)
	@touch $@
endef

$(VENV)/.stamp-venv:
	$(call make_environment,11,python3 python3.14 python3.13 python3.12 python3.11 python)

# JAX and PyTensor need a newer Python than Ostinato does.
$(VENV)-bench/.stamp-venv:
	$(call make_environment,12,python3 python3.14 python3.13 python3.12 python)

$(VENV)/.stamp-%: pyproject.toml $(VENV)/.stamp-venv
	@echo "setup: installing .[$(EXTRAS_$*)] into $(VENV)"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[$(EXTRAS_$*)]' $(CONSTRAINTS_$*)
	@touch $@

$(VENV)-bench/.stamp-peers: pyproject.toml $(VENV)-bench/.stamp-venv
	@echo "setup: installing $(PEERS) into $(@D)"
	@$(@D)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --editable . $(PEERS)
	@touch $@
