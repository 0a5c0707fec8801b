# Every target builds what it needs: a fresh clone wants only python3 >= 3.11 (with venv), make and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := build/bench-venv
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := pyproject.toml constraints.txt
PLUGINS := tests/strategies_package
OUT ?= .
RELEASED = $(wildcard tests/contract/released/*.binpb)

.DEFAULT_GOAL := help
.PHONY: help demo up test test-faults test-rolling test-recovery soak-chaos soak-expiry test-abuse test-report k8s-check image lint bench bench-data bench-engine bench-jobs bench-memory bench-results protos release-protos generate constraints clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: $(VENV)/.ready-run ## from nothing to a finished backtest and its report
	@$(BIN)/python -m services.local demo

up: $(VENV)/.ready-run ## run the services on this machine until Ctrl-C
	@$(BIN)/python -m services.local up

# Half of the time tests wait: two files at a time keep two cores at work. Each half has services of its own.
test: $(VENV)/.ready-dev ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.ready-dev ## check style, types, imports and the protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(RELEASED)

test-faults: $(VENV)/.ready-dev ## 1,000 backtests on each executor while everything dies (10 minutes)
	@$(BIN)/python -m tests.faults.soak --backtests 1000 --per-second 4

test-rolling: $(VENV)/.ready-dev ## 20 restarts of every replica under load (20 minutes)
	@$(BIN)/python -m tests.faults.rolling --restarts 20

test-recovery: $(VENV)/.ready-dev ## what everything leans on goes away for 1, 20 and 60 s (6 minutes)
	@$(BIN)/python -m tests.faults.recovery --seconds 1 20 60

soak-chaos: $(VENV)/.ready-dev ## 2,000 backtests on each executor while everything dies (5 minutes each)
	@$(BIN)/python -m tests.faults.soak --backtests 2000 --per-second 7

soak-expiry: $(VENV)/.ready-dev ## 100,000 reads around the instants at which results expire (3 minutes)
	@$(BIN)/python -m tests.faults.expiry --reads 100000

test-abuse: $(VENV)/.ready-dev ## bombs, floods, slow readers and fuzz, and what another tenant notices (6 minutes)
	@$(BIN)/python -m tests.faults.abuse

test-report: $(VENV)/.ready-dev ## the report in a browser; installs Debian's chromium where there is none
	@command -v chromium chromium-browser google-chrome >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	@$(BIN)/python -m pytest tests/e2e/test_report_browser.py

k8s-check: $(VENV)/.ready-k8s ## check the manifests, the image, compose.yaml, the alerts and the dashboard
	@$(BIN)/python -m tests.k8s.check
	@$(BIN)/python -m pytest tests/k8s

image: ## build the image and start it as in a pod: a root nobody can write to, but for /tmp (needs docker)
	docker build --tag klinecast:dev .
	docker run --rm --read-only --tmpfs /tmp:size=64m --cap-drop ALL --env KLINECAST_DATABASE__URL=postgresql://u@h/n \
		klinecast:dev python -m services.backtest --show-settings

bench: $(VENV)/.ready-dev ## measure speed (minutes)
	@$(BIN)/python -m tests.benchmarks

bench-data: $(VENV)/.ready-dev ## measure streams and ingests against Flight and Postgres (minutes)
	@$(BIN)/python -m tests.benchmarks.data

bench-engine: $(BENCH)/.ready ## measure the engine against vectorbt, backtesting.py and raptorbt (minutes)
	@$(BENCH)/bin/python -m tests.benchmarks.engine

bench-jobs: $(VENV)/.ready-dev ## measure the way of a backtest on both executors (minutes)
	@$(BIN)/python -m tests.benchmarks.jobs

bench-memory: $(VENV)/.ready-dev ## measure memory over many backtests (minutes)
	@$(BIN)/python -m tests.benchmarks.memory

bench-results: $(VENV)/.ready-dev ## measure large results, and readers while a million results expire (minutes)
	@$(BIN)/python -m tests.benchmarks.results

protos: $(VENV)/.ready-dev ## generate klinecast/api from protos/
	@rm -rf klinecast/api
	@$(MAKE) --no-print-directory generate

release-protos: $(VENV)/.ready-dev ## keep the protos of this version as those last released
	@rm -f $(RELEASED)
	@$(BIN)/buf build --exclude-source-info \
		--output tests/contract/released/klinecast-$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml).binpb

generate:
	@mkdir -p $(OUT)
	@PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m grpc_tools.protoc -I protos --python_out=$(OUT) --grpc_python_out=$(OUT) \
		--mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) $$(find protos -name '*.proto' | sort)
	@find $(OUT)/klinecast/api -type d -exec touch {}/__init__.py \;

constraints: $(VENV)/.ready-dev ## resolve the newest versions into constraints.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --group k8s --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --quiet --upgrade --output-file constraints.txt

clean: ## remove the virtual environment and caches (never data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Klinecast needs Python 3.11 or later, $(PYTHON) is %d.%d; try make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed: install your system's python3-venv"; exit 1; }

$(VENV)/.ready-run: $(LOCKED) | $(BIN)/python
	@echo "installing what the services need (a minute the first time)"
	@$(PIP) install -c constraints.txt -e '.[cli,server,local]'
	@touch $@

# Dependency groups came with pip 25.1, Python 3.11 brings an older one.
$(VENV)/.ready-dev: $(LOCKED) $(wildcard $(PLUGINS)/pyproject.toml) | $(VENV)/.ready-run
	@echo "installing what the tests need"
	@$(PIP) install --upgrade 'pip>=25.1,<27'
	@$(PIP) install -c constraints.txt -e '.[cli,server,local,celery]' --group dev
	@if [ -f $(PLUGINS)/pyproject.toml ]; then $(PIP) install --no-deps -e $(PLUGINS); fi
	@touch $@

# 108 MB of schemas, and programs of other people: only k8s-check wants them. promtool comes with Debian's prometheus.
$(VENV)/.ready-k8s: $(LOCKED) | $(VENV)/.ready-dev
	@echo "installing what the manifests are checked with"
	@$(PIP) install -c constraints.txt --group k8s
	@command -v promtool >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } \
		|| { echo "promtool is not installed and apt-get could not: install Prometheus, its promtool belongs on the PATH"; exit 1; }
	@touch $@

# The engines that are yardsticks stay out of the environment everything else runs in.
$(BENCH)/.ready: $(LOCKED) | $(BIN)/python
	@echo "installing the engines to compare with"
	@$(BIN)/python -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip --disable-pip-version-check --quiet install --upgrade 'pip>=25.1,<27'
	@$(BENCH)/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt -e '.[server]' --group bench
	@touch $@
