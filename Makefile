# dCMMS feature store: the commands of a day. `make` alone lists them.

# Python 3.11, by its own name or as python3. Another one: make PYTHON=/path/to/python3.11 ...
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo demo-wind up down load test test-properties test-faults bench docs lint clean

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

test: $(INSTALLED) ## all tests, on servers of their own; ARGS="-k asset" for some
	@$(BIN)/python -m pytest $(ARGS)

test-properties: $(INSTALLED) ## the features against an independent implementation, on 200 generated fleets
	@PROPERTY_FLEETS=200 $(BIN)/python -m pytest -s tests/test_properties.py tests/test_no_leak.py

test-faults: $(INSTALLED) ## kill runs at 57 points, harm their connections, servers, disk and clock; 10 minutes
	@FAULT_CAMPAIGN=1 $(BIN)/python -m pytest tests/faults

bench: $(INSTALLED) ## measure publishing, extraction and whole runs; write docs/performance.md; an hour
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(INSTALLED) ## write docs/features.md from the definitions
	@$(BIN)/python materialize_features.py catalogue > docs/features.md.new && mv docs/features.md.new docs/features.md

lint: $(INSTALLED) ## ruff and sqlfluff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/sqlfluff lint --dialect postgres features/asset_features.sql features/work_order_features.sql \
		features/failure_within_7d.sql features/shared
	@$(BIN)/sqlfluff lint --dialect clickhouse features/telemetry_features.sql features/telemetry_once.sql \
		features/backfill/telemetry_features.sql

clean: ## stop the stack; remove its data, the caches and the virtual environment; keep data/ and .env
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m dev down; fi
	@rm -rf .local $(VENV) .pytest_cache .ruff_cache .hypothesis feast_monitoring
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made again only when the requirements change. -qq: errors only, not what pip thinks of the machine.
$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
		{ echo "this needs Python 3.11: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing the requirements into $(VENV) (a minute or two, once)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -r requirements-dev.txt
	@touch $@
