# SPDX-License-Identifier: MIT
# nodecomm from a source folder. `make` alone lists what there is.
#
#   PYTHON=python3.12   the interpreter (3.10 or newer) that makes the environment
#   VENV=.venv          where the environment is put
#   ARGS="-k stat"      more arguments for pytest, or for the benchmark
#   CONFIG=var/s.toml   for `make run`: a configuration instead of the defaults
#   JOBS=3              tests at a time; most of those with real programs only wait

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
CONFIG ?=
JOBS ?= 3

PROJECT := setup.cfg pyproject.toml
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev

# Two pips in one source folder would write the same metadata at once.
LOCK := $(shell command -v flock >/dev/null 2>&1 && echo flock .make.lock)

.DEFAULT_GOAL := help
.PHONY: help run test lint format types docs bench clean dist peers \
        check-oldest check-newest check-news

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | \
	  awk -F '|' '{ printf "%-20s %s\n", $$1, $$2 }'

$(RUN_STAMP): $(PROJECT) scripts/make_venv.sh
	@$(LOCK) scripts/make_venv.sh "$(PYTHON)" "$(VENV)" .
	@touch $@

# All of it at once: to install nodecomm twice takes seconds.
$(DEV_STAMP): $(PROJECT) scripts/make_venv.sh
	@$(LOCK) scripts/make_venv.sh "$(PYTHON)" "$(VENV)" ".[dev]"
	@touch $(RUN_STAMP) $@

run: $(RUN_STAMP) ## install, then serve ./var/masterfiles in the foreground
	@mkdir -p -m 700 var
	$(VENV)/bin/twistd -n --pidfile= nodecomm-server --state-dir var $(if $(CONFIG),-c $(CONFIG))

peers: ## look for CFEngine's programs, install them when allowed
	@$(LOCK:.make.lock=.peers.lock) scripts/install_peers.sh

test: $(DEV_STAMP) peers ## run every test, with the real cf-* programs if present
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile \
	  --no-loadscope-reorder $(ARGS)

lint: $(DEV_STAMP) ## style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(DEV_STAMP) ## put the formatting right
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(DEV_STAMP) ## mypy, strict
	$(VENV)/bin/mypy

docs: $(DEV_STAMP) ## the HTML documentation, in docs/_build/html
	$(VENV)/bin/sphinx-build -q -W --keep-going -b html docs docs/_build/html

check-news: $(DEV_STAMP) ## does the change log render, and does this branch add to it
	@scripts/check_news.sh "$(VENV)"

bench: $(DEV_STAMP) ## cf-serverd and nodecomm in turn, server CPU side by side
	$(VENV)/bin/python -m benchmarks $(ARGS)

dist: $(DEV_STAMP) ## the source archive and the wheel, in dist/
	$(LOCK) $(VENV)/bin/python -m build --outdir dist .

check-oldest: ## unit tests on the oldest Python and the oldest dependencies
	@LOCK="$(LOCK)" scripts/check_python.sh 3.10 oldest $(ARGS)

check-newest: ## unit tests on the newest Python and the newest dependencies
	@LOCK="$(LOCK)" scripts/check_python.sh 3.13 newest $(ARGS)

clean: ## remove what the other targets made, ./var (keys!) excepted
	rm -rf $(VENV) .venv-oldest .venv-newest build dist docs/_build *.egg-info \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis _trial_temp* tests.* \
	  .make.lock .peers.lock
	find nodecomm twisted tests benchmarks scripts \
	  \( -name __pycache__ -o -name dropin.cache \) -prune -exec rm -rf {} +
