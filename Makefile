# Everything a user or CI runs. `make serve` and `make test` need only Python >= 3.11 and make.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(FITS)' >/dev/null 2>&1 && { echo $$python; break; }; done)
CONFIG ?= configs/one_replica.yaml
BIN := .venv/bin
UV := VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --constraints requirements.lock

PLAN ?= configs/stress/quick.yaml

MINUTES ?= 10
ONLY ?=
RUNS ?= 5
# Tests start hundreds of Python processes: without bytecode files each of them compiles what it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: serve help test test-long test-system test-redis test-noisy check stress soak format lock clean
.DELETE_ON_ERROR:

serve: .venv/serve.stamp ## serve CONFIG (configs/one_replica.yaml) on 127.0.0.1:8000 until Ctrl-C; plain `make` too
	@exec $(BIN)/python -m serve_app $(CONFIG)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

test: .venv/dev.stamp ## the tests, in three processes
	@$(BIN)/pytest --numprocesses=3

test-long: .venv/dev.stamp ## tests that take minutes; ONLY='replaced or killed' runs those with such names
	@$(BIN)/pytest --numprocesses=2 -m long -k '$(ONLY)'

test-system: .venv/dev.stamp ## tests that need root and Debian packages; what is missing is named
	@$(BIN)/pytest -m system

check: .venv/dev.stamp ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

stress: .venv/dev.stamp ## measure what PLAN (configs/stress/quick.yaml) says, and make the report
	@$(BIN)/python -m loadtest run $(PLAN)

soak: .venv/dev.stamp ## load for MINUTES (10) with a fault every minute
	@$(BIN)/python -m loadtest soak --minutes $(MINUTES)

test-redis: .venv/dev.stamp ## the tests of Redis against the server that TEST_REDIS_SERVER names
	@test -n "$$TEST_REDIS_SERVER" || { echo "error: make test-redis TEST_REDIS_SERVER=/path/to/redis-server"; exit 2; }
	@$(BIN)/pytest tests/serve_app/cache tests/serve_app/jobs

test-noisy: .venv/dev.stamp ## `make test` RUNS (5) times in a row while another process keeps one core busy
	@$(BIN)/python -m tests.noisy --runs $(RUNS)

format: .venv/dev.stamp ## rewrite the code as `make check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/uv.stamp ## pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-emit-index-url \
		--no-header --upgrade --quiet --output-file requirements.lock

clean: ## remove what was installed and cached in this folder
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/uv.stamp:
	@$(or $(PYTHON),false) -c '$(FITS)' || \
		{ echo "error: no Python 3.11, 3.12 or 3.13 found (TensorFlow has no other): make PYTHON=/path/to/python3.12"; exit 2; }
	@echo "making .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock uv
	@touch $@

.venv/serve.stamp: .venv/uv.stamp pyproject.toml requirements.lock
	@echo "installing what serving needs"
	@$(UV) --compile-bytecode --editable .
	@touch $@

.venv/dev.stamp: .venv/uv.stamp pyproject.toml requirements.lock
	@echo "installing everything"
	@$(UV) --compile-bytecode --editable '.[stress,client,postgres,onnxruntime,openvino,int8,jax,dev]'
	@touch $@ .venv/serve.stamp
