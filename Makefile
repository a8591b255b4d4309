.DEFAULT_GOAL := help
.PHONY: help setup serve chat engine test lint clean bench-serving
SHELL := /bin/bash

PYTHON ?= python3
PY := .venv/bin/python

HOST ?= 127.0.0.1
HTTP_PORT ?= 8000
GRPC_PORT ?= 8001
METRICS_PORT ?= 8002
GATEWAY_PORT ?= 8080
RUNTIME ?=
STEP_MS ?= 15
FAULT ?=
ENGINE ?=
DRAIN ?= 10
KV_CACHE_GB ?= 0
MODEL ?= Qwen/Qwen2.5-7B-Instruct
PRECISION ?=
CONTEXT ?=

help:  ## list what can be made
	@awk -F':.*## ' '/^[a-zA-Z0-9_-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "  variables: HOST HTTP_PORT GRPC_PORT METRICS_PORT GATEWAY_PORT ENGINE RUNTIME STEP_MS MODEL PRECISION CONTEXT (README.md)"

setup:  ## virtual environment with the pinned packages (every target does this by itself)
	@$(PYTHON) serving/launch/bootstrap.py

setup-dev:
	@$(PYTHON) serving/launch/bootstrap.py dev loadtest

serve: setup  ## start Triton and the gateway; makes a small CPU engine when there is none
	@exec $(PY) -m serving --host $(HOST) --http-port $(HTTP_PORT) --grpc-port $(GRPC_PORT) --metrics-port $(METRICS_PORT) \
	  --gateway-port $(GATEWAY_PORT) --drain $(DRAIN) --kv-cache-gb $(KV_CACHE_GB) --step-ms $(STEP_MS) --fault "$(FAULT)" \
	  --runtime "$(if $(filter simulated,$(RUNTIME)),simulated)" $(if $(ENGINE),--engine $(ENGINE))

chat: setup  ## talk to the running server in the terminal
	@$(PY) -m client --address $(HOST):$(GRPC_PORT)

engine: setup  ## checkpoint to engine: MODEL=<dir|hub id> PRECISION=<int8|int4|bf16|fp32|fp8|…>
	@$(PY) -m build_engine build --model "$(MODEL)" --out $(or $(ENGINE),engines/default) \
	  $(if $(PRECISION),--precision $(PRECISION)) $(if $(RUNTIME),--runtime $(RUNTIME)) $(if $(CONTEXT),--context $(CONTEXT))

test: setup-dev  ## run the tests
	@$(PY) -m pytest -m "not oracle and not gpu and not browser" $(ARGS)

lint: setup-dev  ## ruff and mypy
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

bench-serving: setup-dev  ## the serving layer alone: simulated engine, 1/32/128/256 streams -> results/bench_serving.json
	@$(PY) -m loadtest.bench_serving

clean:  ## remove virtual environments, engines, results
	rm -rf .venv .venv-* engines results reports .run

# --- cpu engine ---------------------------------------------------------------------------------------------------------
.PHONY: setup-oracle test-oracle bench-cpu

ORACLE := .venv-oracle/bin/python

setup-oracle: .venv-oracle/.ready

.venv-oracle/.ready: pyproject.toml
	@echo "making .venv-oracle: torch for the CPU, for tests and benchmarks only"
	@$(PYTHON) -m venv .venv-oracle
	@$(ORACLE) -m pip install --quiet --extra-index-url https://download.pytorch.org/whl/cpu ".[oracle]"
	@touch $@

test-oracle: setup-oracle  ## the CPU engine against transformers: exact FP32 tokens, bounded INT8 error (needs torch; minutes)
	@$(ORACLE) -m pytest tests/oracle -m oracle -s --timeout=3600 $(ARGS)

bench-cpu: setup-oracle  ## CPU engine against transformers.generate (BF16, FP32), 0.5B shape -> results/bench_cpu.json
	@flock /tmp/bench.lock $(ORACLE) -m build_engine.bench_cpu $(ARGS)


# --- engine building ----------------------------------------------------------------------------------------------------

# --- gateway and page ---------------------------------------------------------------------------------------------------

setup-browser: setup-dev
	@for tool in node npm chromium prometheus; do command -v $$tool >/dev/null || \
	  { echo "$$tool is missing: apt-get install chromium prometheus; node 20 or later from nodejs.org"; exit 1; }; done
	@npm ci --silent --ignore-scripts --prefix tests/gateway/js

test-browser: setup-browser  ## chat page, npm client and dashboards: needs node, chromium and prometheus
	@$(PY) -m pytest -m browser $(ARGS)

vendor: setup-browser  ## copy the page's libraries from npm, as pinned in tests/gateway/js/package-lock.json
	@node tests/gateway/js/vendor.mjs

# --- load tests ---------------------------------------------------------------------------------------------------------

# --- gpu ----------------------------------------------------------------------------------------------------------------
