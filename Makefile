# Every target makes the virtual environment it needs in .venv and reuses it
# afterwards. A change of pyproject.toml brings it up to date. To choose the
# interpreter: make PYTHON=/path/to/python test (after `make clean`, if .venv is
# already there).

PYTHON ?=
ARGS ?=

# Fixed, because `make clean` deletes it.
VENV := .venv
BIN := $(VENV)/bin

EXTRAS_demo := demo
EXTRAS_test := test,demo
EXTRAS_lint := lint,test
EXTRAS_docs := docs

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint docs bench format clean

help:  ## show this list
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.stamp-demo  ## run the example: examples/garch.py
	@$(BIN)/python examples/garch.py $(ARGS)

# A run narrowed by ARGS is not held to the coverage floor.
test: $(VENV)/.stamp-test  ## run the tests and the code in the docs; ARGS="-k scan" narrows them
	@$(BIN)/python -m pytest -n auto --cov $(if $(strip $(ARGS)),--cov-fail-under=0) $(ARGS)

lint: $(VENV)/.stamp-lint  ## check style, formatting and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.stamp-docs  ## build the documentation in docs/_build/html
	@$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html
	@echo "docs: open docs/_build/html/index.html"

bench: $(VENV)/.stamp-demo  ## run the benchmarks: benchmarks/run.py
	@$(BIN)/python benchmarks/run.py $(ARGS)

format: $(VENV)/.stamp-lint  ## fix what ruff can fix, then format
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:  ## delete everything made here, .venv included
	rm -rf $(VENV) build dist htmlcov docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f .coverage .coverage.*
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment itself. A candidate counts only if it runs (a version manager
# may leave shims that do not) and is new enough.
$(VENV)/.stamp-venv:
	@python=; \
	for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        python=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: $(if $(PYTHON),'$(PYTHON)' is not a working Python 3.11 or newer,no working Python 3.11 or newer was found)." >&2; \
	    echo "make: install one, or name one: make PYTHON=/path/to/python ..." >&2; \
	    exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "make: $$python lacks the venv module (on Debian and Ubuntu it is the package python3-venv)." >&2; \
	    exit 1; \
	fi; \
	echo "setup: making $(VENV) with $$($$python --version)"; \
	$$python -m venv --clear $(VENV)
	@touch $@

$(VENV)/.stamp-%: pyproject.toml $(VENV)/.stamp-venv
	@echo "setup: installing .[$(EXTRAS_$*)] into $(VENV)"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[$(EXTRAS_$*)]'
	@touch $@
