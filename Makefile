# make help lists the targets. Everything is installed into .venv, nothing else is touched.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Two workers with one thread each beat one with two; threads that spin make both slow.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup study test test-quick check lint types imports format reference browser services chaos bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## the environment in .venv, with the tested versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "embsearch needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

study: setup  ## the study of studies/product_search, then its promotion
	$(BIN)/embsearch search study=product_search
	$(BIN)/embsearch promote study=product_search

# Two processes with one thread each; then, alone, what measures seconds. Both are run whatever the first finds.
PARALLEL := -n 2 --dist loadgroup --no-loadscope-reorder

test: setup browser services  ## all tests
	$(BIN)/python -m pytest $(PARALLEL) -m 'not serial'; parallel=$$?; \
	$(BIN)/python -m pytest -m serial && exit $$parallel

test-quick: setup  ## what to run between two commits: no cluster, browser, kernel, whole study
	$(BIN)/python -m pytest $(PARALLEL) -m 'not (cluster or browser or kernel or story or slow or serial)'

check: lint types imports test  ## what CI runs: ruff, mypy, import-linter, tests

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports --no-logo

format: setup  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: setup  ## docs/reference/config.md and cli.md anew, from the code
	$(BIN)/python docs/make_reference.py

# The browser tests open MLflow in Chromium; without it they are skipped and say so.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Debian's chromium for the browser tests"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	  else \
	    echo "no Chromium: the browser tests will be skipped. For them: sudo apt-get install chromium"; \
	  fi; }

# The tests of launcher=slurm and study.storage run a real Slurm and a real PostgreSQL as children of their own; without
# them they are skipped and say so. Debian's packages would also start them as services: that is not needed.
services:
	@missing=; for tool in slurmctld slurmd munged; do command -v $$tool >/dev/null || test -x /usr/sbin/$$tool || missing=1; done; \
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || missing=1; \
	test -z "$$missing" || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Debian's slurmctld, slurmd, munge and postgresql for the tests of clusters"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurmctld slurmd munge postgresql >/dev/null; \
	  else \
	    echo "no Slurm or no PostgreSQL: their tests will be skipped. For them:" \
	      "sudo apt-get install slurmctld slurmd munge postgresql"; \
	  fi; }

chaos: setup  ## a study of 12 trials under 20 kills, beside an undisturbed one: a quarter of an hour
	$(BIN)/python benchmarks/chaos.py

bench: setup  ## this against sentence-transformers' trainer and encode, half an hour on a quiet machine
	$(BIN)/python benchmarks/bench.py


clean:  ## remove the environment and caches (not .embsearch, where studies lie)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
