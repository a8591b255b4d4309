.DEFAULT_GOAL := help
SHELL := /bin/bash
ifeq ($(wildcard serving/launch/bootstrap.py),)
$(error every path here is from the checkout's top: make -C DIRECTORY instead of make -f DIRECTORY/Makefile)
endif

PYTHON ?= python3
# Looked up where it is used: `make help` needs none.
PYTHON_HERE = $(if $(shell command -v "$(PYTHON)"),"$(PYTHON)",$(error PYTHON=$(PYTHON) is no program here: give a Python 3.10, 3.11 or 3.12, or leave it out))
PY := .venv/bin/python
# A Ctrl-C that comes while Python starts waits until the program lets it in (contract/program.py), instead of being
# Python's traceback. Before a program that does so, and no other, because that would never end. Not every `env` can.
HOLD = $(if $(shell env --block-signal=INT true 2>/dev/null && echo yes),env --block-signal=INT )
OURS = $(HOLD)$(PY)
# Another Python's: none would start with it, or with its packages before those of .venv, or end.
unexport PYTHONHOME PYTHONINSPECT $(if $(PYTHON_EXECUTABLE),,$(if $(findstring environment,$(origin PYTHONPATH)),PYTHONPATH))
# Where packages go, and which: serving/launch/pip.conf says the same of pip's files.
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN PIP_NO_DEPS PIP_REQUIREMENT PIP_EDITABLE PIP_CONSTRAINT \
  PIP_NO_BINARY PIP_ONLY_BINARY PIP_DEST
ifneq ($(and $(findstring environment,$(origin PIP_CONFIG_FILE)),$(PIP_CONFIG_FILE)),)
export PIP_CONFIG_FILE := $(shell python3 serving/launch/pip_config.py 2>/dev/null || printf %s "$$PIP_CONFIG_FILE")
endif
# $(call venv,PYTHON,DIRECTORY)
venv = $1 -m venv $2 && cp serving/launch/pip.conf $2
ORACLE := .venv-oracle/bin/python

# Where servers and clients meet; every other setting that is not given has its default in the program.
HOST ?= 127.0.0.1
HTTP_PORT ?= 8000
GRPC_PORT ?= 8001
METRICS_PORT ?= 8002
GATEWAY_PORT ?= 8080
MODEL ?= Qwen/Qwen2.5-7B-Instruct

RUNTIMES := openvino tensorrt_llm vllm simulated
ifneq ($(filter-out $(RUNTIMES),$(RUNTIME)),)
$(error RUNTIME=$(RUNTIME) is unknown: use one of $(RUNTIMES), or leave it out)
endif

ifeq ($(origin MODEL)$(strip $(MODEL)),command line)
$(error MODEL= is empty: name a directory, a .gguf file, a hub id, smollm2 or synthetic, or leave it out)
endif

# A mistyped name would be ignored without a word: it is refused.
TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),'$(name)'))
MISTYPED := $(if $(TYPED),$(shell python3 serving/launch/spelling.py $(TYPED) 2>/dev/null))
ifneq ($(MISTYPED),)
$(error $(MISTYPED))
endif

# So would be a variable that a target does not read.
BUILD_VARIABLES := RUNTIME PRECISION CONTEXT GPU KV TP BACKEND PROFILE ALPHA REVISION CALIBRATION REFERENCE SPECULATE FP8_HEAD LORA VLLM_ARGS
READ_BY_plan := RUNTIME PRECISION CONTEXT GPU KV TP BACKEND PROFILE
READ_BY_preflight := $(READ_BY_plan) REVISION
READ_BY_engine := $(filter-out REFERENCE,$(BUILD_VARIABLES))
READ_BY_verify := REFERENCE
READ_BY_serve := RUNTIME
READ_BY_cluster := RUNTIME
GIVEN := $(foreach name,$(BUILD_VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNREAD := $(filter-out $(foreach goal,$(MAKECMDGOALS),$(READ_BY_$(goal))),$(GIVEN))
READERS = $(foreach target,plan preflight engine verify serve cluster,$(if $(filter $(firstword $(UNREAD)),$(READ_BY_$(target))),$(target)))
ifneq ($(UNREAD),)
$(error $(firstword $(UNREAD))= changes nothing in `make $(MAKECMDGOALS)`, leave it out: it is read by make $(strip $(READERS)))
endif

# Recipes read values as $$NAME, because make would not quote a quote.
SERVE_VARIABLES := TRITON_HOST LAME_DUCK DRAIN MAX_RESTARTS MAX_STREAMS QUEUE_LIMIT KV_CACHE_GB GPU_MEMORY_FRACTION THREADS EXACT STEP_SECONDS STEP_MS \
  PREFILL_MS_PER_TOKEN FAULT
export ENGINE MODEL DRY_RUN TRITON_KEY_FILE TRITON_TLS_CERT TRITON_TLS_KEY TRITON_TLS_CLIENT_CA $(SERVE_VARIABLES) $(BUILD_VARIABLES)
# $(call option,GPU,gpu) is --gpu "$GPU", or nothing when GPU= is not given.
option = $(if $($1),--$2 "$$$1")

help:  ## this list
	@awk -F':.*## ' '/^\#\#@ / {printf "\n%s\n", substr($$0, 5)} /^[a-zA-Z0-9_-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables: docs/running.md (serve), docs/building.md (engine), docs/loadtest.md (loadtest), docs/scaling.md (cluster).\n'

##@ Serve

# Envoy where gRPC asks for a key or speaks TLS, and OpenTelemetry where a collector is named.
SETUP = setup $(if $(TRITON_KEY_FILE)$(TRITON_TLS_CERT),setup-router) \
  $(if $(strip $(OTEL_EXPORTER_OTLP_ENDPOINT)$(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)),setup-otel)
GRPC_PROXY = $(call option,TRITON_KEY_FILE,triton-key-file) $(call option,TRITON_TLS_CERT,triton-tls-cert) \
  $(call option,TRITON_TLS_KEY,triton-tls-key) $(call option,TRITON_TLS_CLIENT_CA,triton-tls-client-ca)
SERVE_OPTIONS = $(call option,LAME_DUCK,lame-duck) $(call option,DRAIN,drain) $(call option,MAX_RESTARTS,max-restarts) \
  $(call option,MAX_STREAMS,max-streams) $(call option,QUEUE_LIMIT,queue-limit) $(call option,KV_CACHE_GB,kv-cache-gb) $(call option,GPU_MEMORY_FRACTION,gpu-memory-fraction) \
  $(call option,THREADS,threads) $(call option,EXACT,exact) $(call option,STEP_SECONDS,step-seconds) $(call option,STEP_MS,step-ms) \
  $(call option,PREFILL_MS_PER_TOKEN,prefill-ms-per-token) $(call option,FAULT,fault) $(call option,RUNTIME,runtime) \
  $(call option,ENGINE,engine) $(if $(filter command,$(origin MODEL)),--model "$$MODEL")

serve: $(SETUP)  ## start Triton and the gateway; MODEL=<smollm2|synthetic|dir|file.gguf|hub id> (default: engines/default, else smollm2)
	@exec $(OURS) -m serving --host "$(HOST)" $(call option,TRITON_HOST,triton-host) --http-port "$(HTTP_PORT)" --grpc-port "$(GRPC_PORT)" \
	  --metrics-port "$(METRICS_PORT)" --gateway-port "$(GATEWAY_PORT)" $(SERVE_OPTIONS) $(GRPC_PROXY)

chat: setup  ## talk to the running server in the terminal
	@$(OURS) -m client --address $(if $(findstring :,$(HOST)),[$(HOST)],$(HOST)):$(GRPC_PORT)

REPLICAS ?= 2

cluster: $(SETUP) setup-router  ## several servers behind one address: REPLICAS=3 here, or REPLICAS=http://a:8080,http://b:8080
	@exec $(OURS) -m deploy.cluster --replicas "$(REPLICAS)" --host "$(HOST)" --port "$(GATEWAY_PORT)" --grpc-port "$(GRPC_PORT)" $(GRPC_PROXY) -- \
	  $(SERVE_OPTIONS) $(ARGS)

cluster-roll: setup  ## replace the replicas of the running `make cluster` one by one
	@$(OURS) -m deploy.cluster --roll $(ARGS)

setup-dev:
	@$(HOLD)$(PYTHON_HERE) serving/launch/bootstrap.py dev loadtest otel

setup-loadtest:
	@$(HOLD)$(PYTHON_HERE) serving/launch/bootstrap.py loadtest

setup-otel: setup
	@$(HOLD)$(PYTHON_HERE) serving/launch/bootstrap.py otel

setup-router: .venv-router/.ready

.venv-router/.ready: pyproject.toml
	@echo "making .venv-router: smg and Envoy"
	@$(call venv,$(PYTHON_HERE),.venv-router)
	@.venv-router/bin/python -m pip install --quiet $$(sed -n 's/^router = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '",')
	@touch $@

##@ Build an engine

ifneq (,$(filter-out 0 1,$(FP8_HEAD)))
  $(error FP8_HEAD=$(FP8_HEAD) is neither 0 nor 1)
endif

# What `plan`, `preflight` and `engine` share. DRY_RUN=1 in the environment makes `engine` only print its commands.
PLAN_OPTIONS = --model "$$MODEL" $(call option,RUNTIME,runtime) $(call option,PRECISION,precision) $(call option,CONTEXT,context) \
  $(call option,GPU,gpu) $(call option,KV,kv) $(call option,TP,tp) $(call option,BACKEND,backend) $(call option,PROFILE,profile)
BUILD_OPTIONS = $(PLAN_OPTIONS) $(call option,ALPHA,alpha) $(call option,REVISION,revision) $(call option,CALIBRATION,calibration) \
  $(call option,SPECULATE,speculate) $(if $(filter-out 0,$(FP8_HEAD)),--fp8-head) $(call option,LORA,lora) $(call option,VLLM_ARGS,vllm-args)

engine: setup  ## checkpoint to engine: MODEL=<dir|file.gguf|hub id|smollm2|synthetic> PRECISION=<int8|int4|bf16|fp32|fp8|…>
	@$(OURS) -m build_engine build --out "$${ENGINE:-engines/default}" $(BUILD_OPTIONS)

verify: setup  ## accuracy gate: compare ENGINE=<dir> with its unquantized REFERENCE=<engine, or checkpoint: needs torch>
	@$(HOLD)$(if $(and $(REFERENCE),$(wildcard .venv-oracle/.ready)),$(ORACLE),$(PY)) -m build_engine verify --engine "$${ENGINE:-engines/default}" $(call option,REFERENCE,reference) $(ARGS)

plan: setup  ## what fits a GPU: MODEL=… GPU=h200|h100|l40s|a100-80|4090|… PRECISION=… CONTEXT=chat|summary|audit|book|N
	@$(OURS) -m build_engine plan $(PLAN_OPTIONS) $(ARGS)

preflight: setup  ## can this machine build a TensorRT-LLM engine? every fault with its remedy
	@$(OURS) -m build_engine preflight $(PLAN_OPTIONS) $(call option,REVISION,revision) --out "$${ENGINE:-engines/default}"

probe: setup  ## does this GPU host's TensorRT-LLM do what serving needs? ten minutes, a tiny model -> probe/probe.json
	@$(OURS) -m build_engine.tensorrt_llm.probe $(ARGS)

facts:  ## inside NVIDIA's container: the installed TensorRT-LLM's names and flags -> facts/, and how they differ from tests/data
	@PYTHONPATH="$(PYTHONPATH)" $(HOLD)python3 -m build_engine.tensorrt_llm.probe.facts --output $(or $(OUT),facts)

##@ Load test

SCENARIO ?= chat
TRANSPORT ?= grpc
USERS ?=
WORKERS ?= 1
SEED ?= 1
# HOST and the ports are those of `make serve`. ARGS takes what else `python -m loadtest run --help` lists.
LOADTEST = --host "$(HOST)" --grpc-port "$(GRPC_PORT)" --gateway-port "$(GATEWAY_PORT)" --metrics-port "$(METRICS_PORT)" \
  --scenario "$(SCENARIO)" --transport "$(TRANSPORT)" --users "$(USERS)" --rate "$(RATE)" --arrivals "$(ARRIVALS)" \
  --duration "$(DURATION)" --requests "$(REQUESTS)" --slo "$(SLO)" --workers "$(WORKERS)" --seed "$(SEED)" $(ARGS)

loadtest: setup-loadtest  ## USERS=8 or RATE=5 [ARRIVALS=…], SLO=ttft=200ms TRANSPORT=grpc|sse|both SCENARIO=… DURATION=…|REQUESTS=… -> reports/
	@$(OURS) -m loadtest run $(LOADTEST)

loadtest-ui: setup-loadtest  ## the same in Locust's web UI, with a Streaming tab
	@$(OURS) -m loadtest run --ui $(LOADTEST)

loadtest-sweep: setup-loadtest  ## raise the rate until the limits of SLO= break: the highest rate that meets them
	@$(OURS) -m loadtest sweep $(LOADTEST)

loadtest-compare: setup-loadtest  ## two runs side by side: A=reports/… B=reports/… [WORSE=5%]
	@$(OURS) -m loadtest compare "$(A)" "$(B)" $(if $(WORSE),--worse "$(WORSE)")

capacity: setup-loadtest  ## how many replicas take RATE=200 requests/s, from the newest loadtest-sweep of one (or SWEEP=…)
	@$(OURS) -m loadtest capacity --rate "$(or $(RATE),$(error RATE= is missing: give requests per second, as RATE=200))" $(if $(SWEEP),--sweep "$(SWEEP)")

loadtest-calibrate: setup-dev  ## check the load generator against a server whose latencies are known
	@$(OURS) -m tests.loadtest.calibrate

##@ Benchmarks (results/; docs/benchmarks.md)

bench-serving: setup-loadtest  ## the serving layer alone: simulated engine, 1/32/128/256 streams
	@$(OURS) -m loadtest.bench.serving $(ARGS)

bench-gateway: setup-loadtest  ## the web path against gRPC: simulated engine, 1/32/128 streams
	@$(OURS) -m loadtest.bench.gateway $(ARGS)

bench-cpu: setup-loadtest  ## the CPU engine against llama.cpp, openvino-genai and transformers, 1/8/16 streams
	@$(OURS) -m loadtest.bench.cpu $(ARGS)

bench-gpu: $(if $(PYTHON_EXECUTABLE),,setup)  ## on a GPU host: transformers, vLLM and this project side by side
	@$(HOLD)$(or $(PYTHON_EXECUTABLE),$(PY)) -m loadtest.bench.gpu $(ARGS)

bench-cluster: setup-loadtest setup-router  ## affinity, a slow, dead, draining or full replica, and what the routers cost
	@$(OURS) -m loadtest.bench.cluster $(ARGS)

bench-fairness: setup-loadtest  ## what one tenant's flood costs another tenant's single requests
	@$(OURS) -m loadtest.bench.fairness $(ARGS)

bench-isolation: setup-loadtest  ## what 12 streams and small requests notice while one client attacks
	@$(OURS) -m loadtest.bench.isolation $(ARGS)

bench-leaks: setup-loadtest  ## memory and files per process over 5,000 streams, and what 500 vanished clients leave
	@$(OURS) -m loadtest.bench.leaks $(ARGS)

strategies: $(if $(PYTHON_EXECUTABLE),,setup-dev setup-oracle)  ## five mitigations for a slow service, measured here -> reports/strategies.html
	@$(HOLD)$(or $(PYTHON_EXECUTABLE),$(PY)) -m loadtest.bench.strategies $(ARGS)

##@ Test

test: setup-dev  ## the tests, two at a time (ARGS=-n0: one at a time, as -s and --pdb need)
	@$(PY) -m pytest -n 2 --dist worksteal -m "not oracle and not real and not browser and not chaos and not cluster" $(ARGS)

lint: setup-dev  ## ruff, mypy, and the direction of imports
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && .venv/bin/lint-imports --no-logo

test-browser: setup-browser  ## chat page, npm client and dashboards: needs node, chromium and prometheus
	@$(PY) -m pytest -m browser $(ARGS)

test-cluster: setup-dev setup-loadtest setup-router  ## rolling drain, a killed replica, keys and certificates, with the real routers
	@$(PY) -m pytest -m cluster tests/deploy $(ARGS)

test-chaos: setup-dev  ## kill -9 and SIGSTOP of every process under streams (minutes) -> results/chaos.md
	@$(PY) -m pytest -m chaos $(ARGS)

test-oracle: setup-oracle  ## with torch: the CPU engine against transformers (exact in FP32), FP8 and INT8 checkpoints (minutes)
	@$(ORACLE) -m pytest tests/oracle tests/build_engine/fp8 tests/build_engine/vllm/test_smoothing.py -m oracle -s --timeout=3600 $(ARGS)

test-real: setup-dev setup-oracle  ## the default model on real text, and against transformers token by token (minutes)
	@$(PY) -m pytest tests/real --timeout=1800 $(ARGS)
	@$(ORACLE) -m pytest tests/oracle/test_smollm2*.py -m oracle -s --timeout=3600 $(ARGS)

check-manifests: setup .venv-manifests/.ready  ## deploy/: Kubernetes objects, Dockerfiles and compose files against their schemas
	@$(PY) -m deploy.check $(ARGS)

lock-check:  ## do locks/ hold what pyproject.toml pins, for every Python? installs nothing
	@$(HOLD)$(PYTHON_HERE) serving/launch/bootstrap.py --check loadtest dev otel vllm

setup-browser: setup-dev
	@for tool in node npm chromium prometheus; do command -v $$tool >/dev/null || \
	  { echo "$$tool is missing: apt-get install chromium prometheus; node 20 or later from nodejs.org"; exit 1; }; done
	@npm ci --silent --ignore-scripts --prefix tests/serving/gateway/js

setup-oracle: .venv-oracle/.ready

.venv-oracle/.ready: pyproject.toml
	@echo "making .venv-oracle: torch for the CPU, for tests and benchmarks only"
	@$(call venv,$(PYTHON_HERE),.venv-oracle)
	@$(ORACLE) -m pip install --quiet --no-deps --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu \
	  "$$(sed -n 's/^oracle = \["\(torch==[^"]*\)".*/\1/p' pyproject.toml)"  # torch alone from there: the CPU build, a tenth of the size
	@$(ORACLE) -m pip install --quiet ".[server,oracle,dev]"
	@$(ORACLE) -m pip install --quiet --no-deps "$$(sed -n 's/^kernels = \["\(.*\)"\]/\1/p' pyproject.toml)"  # torch from PyPI would want its own
	@touch $@

.venv-manifests/.ready: pyproject.toml
	@$(call venv,$(PYTHON_HERE),.venv-manifests)
	@.venv-manifests/bin/python -m pip install --quiet --disable-pip-version-check $$(sed -n 's/^manifests = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d '",')
	@touch $@

##@ Write generated files again

fields: setup  ## after a change of contract/fields.py: config.pbtxt, Sampling, Options, gateway fields, docs
	@$(PY) -m contract.generate && $(PY) -m serving.gateway.schema.coverage

lock: .venv-lock/.ready  ## after a change of pyproject.toml's pins: locks/*.txt, with hashes and all dependencies
	@.venv-lock/bin/python .ci/lock.py

licences: setup-dev  ## after `make lock`: the licence of every package -> docs/licences.md
	@$(PY) .ci/licences.py

licences-check: setup-dev
	@$(PY) .ci/licences.py --check

manifests: setup  ## after a change of the alerts or of deploy/envoy.py: the parts of deploy/kubernetes that repeat them
	@$(PY) -m deploy.generate

vendor: setup-browser  ## copy the page's libraries from npm, as pinned in tests/serving/gateway/js/package-lock.json
	@node tests/serving/gateway/js/vendor.mjs

sbom: .venv-sbom/.ready  ## the server's packages with versions, hashes and licences, as CycloneDX -> sbom/
	@.venv-sbom/bin/python .ci/sbom.py

# uv has an environment of its own: set-up refuses a stale lock, and this is what renews it.
.venv-lock/.ready: pyproject.toml
	@$(call venv,$(PYTHON_HERE),.venv-lock)
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^ *"\(uv==[^"]*\)".*/\1/p' pyproject.toml)"
	@touch $@

.venv-sbom/.ready: pyproject.toml
	@$(MAKE) --no-print-directory setup && $(call venv,$(PY),.venv-sbom)
	@.venv-sbom/bin/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^sbom = \["\(.*\)"\]$$/\1/p' pyproject.toml)"
	@touch $@

##@ Set up and clean

setup:  ## install the pinned packages into .venv (every target does this by itself)
	@$(HOLD)$(PYTHON_HERE) serving/launch/bootstrap.py

setup-vllm:  ## add vLLM on a GPU host: several GB, from the lock (plain pip would replace numpy)
	@$(HOLD)$(PYTHON_HERE) serving/launch/bootstrap.py vllm

clean:  ## remove virtual environments, engines, results
	rm -rf .venv .venv-* engines results reports .run

.PHONY: $(shell sed -n 's/^\([a-z][a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))
