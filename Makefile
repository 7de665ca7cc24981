# The whole workflow on one page. `make` alone lists the commands.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
APP    := $(VENV)/.app-installed
DEV    := $(VENV)/.dev-installed

# Pictures of the demo; DEMO_PICTURES=my/folder shows your own instead.
DEMO_SCENES   ?= 2000
DEMO_PICTURES ?= data/demo-pictures
FIGURES_SEED  := 2026

# An index syncs its files often. In memory that costs nothing, so the tests' temporary folders are there if it is large.
export PYTEST_DEBUG_TEMPROOT := $(shell [ "$$(df --output=avail -k /dev/shm 2>/dev/null | tail -1)" -gt 6000000 ] 2>/dev/null && echo /dev/shm)

.DEFAULT_GOAL := help
.PHONY: help demo test e2e-long chaos check fix lock graphiql images cluster cluster-down chart figures clean
.SHELLFLAGS := -eu -c

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(APP) graphiql ## Draw pictures, index them and serve the search page; Ctrl-C stops it
	@if [ "$(DEMO_PICTURES)" = data/demo-pictures ]; then \
	   $(BIN)/sightline simulate scenes --count $(DEMO_SCENES) --seed 1 --out $(DEMO_PICTURES); fi
	@$(BIN)/sightline index $(DEMO_PICTURES)
	@exec $(BIN)/sightline serve

test: check $(VENV)/.programs-installed graphiql ## Everything that must pass, on a fresh machine
	$(BIN)/python -m tests.e2e.cluster build
	$(BIN)/python -m pytest -m "(programs or quality or bench) and not long"

chaos: $(DEV) $(VENV)/.programs-installed ## Kill all that can die, 200 times, and report; CHAOS_SEED=N repeats a story
	$(BIN)/python -m tests.chaos --kills $(or $(CHAOS_KILLS),200) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

e2e-long: $(DEV) $(VENV)/.programs-installed ## What takes too long for `make test`: 1,000 ImageIndexes, ten quiet minutes; an hour
	$(BIN)/python -m tests.e2e.cluster build
	$(BIN)/python -m pytest -m long

check: $(DEV) ## Lint, types, import directions and the fast tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not programs and not quality and not bench and not long"

fix: $(DEV) ## Format, and mend what can be mended by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(UV) ## Bring the lock files up to date with pyproject.toml
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header pyproject.toml --group dev \
	  -c requirements.lock -o requirements-dev.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --group serving \
	  -c requirements.lock -o requirements-serving.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --group operator \
	  -c requirements.lock --override operator/overrides.txt -o requirements-operator.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --group images \
	  -c requirements.lock -o requirements-images.lock
	echo uv | $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header - -o requirements-uv.lock

graphiql: ## Build GraphiQL's assets, so that /graphql works offline
	@if command -v npm >/dev/null; then node tools/graphiql/build.mjs graphql_api/graphiql_assets \
	   || echo "GraphiQL can't be built (the reason is above): at /graphql it will load from the web."; \
	 elif [ ! -f graphql_api/graphiql_assets/graphiql.js ]; then \
	   echo "No npm here: GraphiQL at /graphql will load from the web."; fi

images: $(APP) graphiql ## Build the container images api, indexer and operator into build/images
	@PYTHON=$(BIN)/python tools/images/build

cluster: $(DEV) $(VENV)/.programs-installed ## A real Kubernetes to try things on; Ctrl-C or cluster-down ends it
	@exec $(BIN)/python -m tests.e2e.cluster up

cluster-down: $(DEV) ## Take down what `make cluster` brought up
	@$(BIN)/python -m tests.e2e.cluster down

chart: $(DEV) ## Bring the chart's dashboards and its copy of the definition of ImageIndex up to date
	cp operator/imageindex_operator/crd.yaml charts/sightline/files/crd.yaml # Helm packages no links
	$(BIN)/python -m observability.dashboards charts/sightline/files/dashboards

figures: $(APP) ## Measure the shipped model as the README reports it
	$(BIN)/sightline evaluate --scenes --seed $(FIGURES_SEED) --count 2000 --json

clean: ## Remove what the other commands made here, indexes and pictures included
	rm -rf $(VENV) data build dist graphql_api/graphiql_assets tools/graphiql/node_modules

$(UV): requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Sightline needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-uv.lock
	@touch $@

$(APP): $(UV) requirements.lock pyproject.toml
	@echo "Installing into $(VENV): about 6 GB, most of it PyTorch; 2 to 3 minutes the first time."
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(APP) requirements-dev.lock
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements-dev.lock
	@touch $@

# Programs that only the tests need: a browser, databases, what a Kubernetes node consists of.
$(VENV)/.programs-installed: tools/install-test-programs
	tools/install-test-programs
	@touch $@
