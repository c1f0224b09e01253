# imdb-serving: every target does its own set-up. `make` alone lists the targets.
# The first Python from 3.10 to 3.13 that is here; another one: make PYTHON=... sweep
FITS := import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$p -c '$(FITS)' 2>/dev/null && { echo $$p; break; }; done)
PARAMS ?= params/default.yaml
SAMPLES ?= 2500
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/imdb-serving
# Of the pages that the tests open in a browser.
SHOTS := IMDB_SERVING_SCREENSHOTS=outputs/screenshots
# Twice as many tests at once as there are cores, up to four: each has servers and clients of its own, and often waits for them.
AT_ONCE := $(shell n=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 2 ? 2 : 4)))
PYTEST := $(SHOTS) $(BIN)/python -m pytest
TOGETHER := --numprocesses $(AT_ONCE) --dist worksteal
COVERAGE := --cov --cov-append --cov-report
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile
LOCKS := requirements.lock requirements-lab.lock requirements-servers.lock requirements-test.lock
# The extras of sweeps.
SWEEP := folded import paddle report
SHELL := /bin/bash
# Dependencies are compiled when first imported, not all at once; that needs leave to write.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Of what apt says, the errors, without the hosts that it asks.
APT_ERRORS := sed -nE '/^(E|sudo):/{ s~[a-z]+://[^ ]+~(a package source)~g; s~([[:alnum:]-]+\.){2,}[[:alnum:]]+(:[0-9]+)?~(a host)~g; p }'

# A value within single quotes of the shell.
quoted = $(subst ','\'',$(1))

.DEFAULT_GOAL := help
.PHONY: help setup setup-test sweep ladder servers growth flask-benchmark test test-all audit ray browser lint train lab report figures clean lock

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

# A lock has all of what it is for, and of one package not those that it asks for (pyproject.toml): none are looked up.
define INSTALL
set -o pipefail; $(BIN)/uv pip install --python $(BIN)/python --no-deps --require-hashes -r $(1) 2>&1 | sed '/^ [+-] /d; /^Uninstalled/d; s/^/    /' || \
		{ echo "    uv could not; pip takes some minutes longer"; $(PIP) --quiet --no-deps --require-hashes -r $(1); }
endef

# The stamp is newer than the lock and the project file, or the environment is made again.
$(VENV)/.ready: requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c '$(FITS)' || { echo "error: no Python from 3.10 to 3.13 here; install one, or name it: make PYTHON=/path/to/python ..."; exit 1; }
	@echo "==> making $(VENV) and installing the locked dependencies (once, half a minute or more)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.lock > $(VENV)/uv.lock
	@$(PIP) --quiet --require-hashes -r $(VENV)/uv.lock
	@$(call INSTALL,requirements.lock)
	@PYTHONWARNINGS=ignore $(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# What JupyterLab, the servers of others and the tests need besides.
$(VENV)/.%: requirements-%.lock $(VENV)/.ready
	@echo "==> installing the locked dependencies of: $*"
	@$(call INSTALL,$<)
	@touch $@

setup: $(VENV)/.ready ## make the environment (.venv) with the locked dependencies of sweeps

setup-test: $(VENV)/.lab $(VENV)/.servers $(VENV)/.test ## add what JupyterLab, the servers of others and the tests need

train: setup ## train the default CNN, if there is none yet
	@echo "==> model"
	@$(RUN) train --net cnn --out outputs/models/cnn --if-missing

sweep: setup $(if $(CLUSTER),ray) ## measure PARAMS (default params/default.yaml) and write the report; CLUSTER=auto: on a Ray cluster
	@echo '==> sweep $(call quoted,$(PARAMS))$(if $(CLUSTER), on the cluster $(CLUSTER))'
	@$(RUN) sweep '$(call quoted,$(PARAMS))' $(if $(CLUSTER),--cluster '$(CLUSTER)')

ladder: train ## measure what each layer between the bare model and the published Flask service costs
	@echo "==> the overhead ladder"
	@$(RUN) ladder

servers: train $(VENV)/.servers ## measure our servers beside those of others in examples/servers, on the same engine (params/servers.yaml)
	@echo "==> our servers beside others"
	@$(RUN) sweep params/servers.yaml

growth: setup ## measure how cost grows with workers, clients, review length and batch, and draw it
	@echo "==> how the cost of serving grows"
	@$(RUN) growth

flask-benchmark: train ## print the published Flask table and ours (SAMPLES=2500: some minutes)
	@echo "==> Flask benchmark"
	@$(RUN) flask-benchmark outputs/models/cnn --samples $(SAMPLES)

report: setup ## draw the report of PARAMS's last sweep again, from its ledger
	@echo "==> report"
	@$(RUN) report "outputs/$$(name='$(call quoted,$(PARAMS))'; name=$${name##*/}; printf %s "$${name%.*}")" $(FIGURES)

figures: FIGURES := --figures
figures: report ## the same, and write every figure as PNG, SVG and PDF

lab: train $(VENV)/.lab ## open JupyterLab on explore.ipynb, a server under load that follows your hand
	@echo "==> JupyterLab, on explore.ipynb: Run > Run All Cells (JUPYTER='--no-browser --port 8899' goes to it)"
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) \
		--LabApp.default_url=/doc/tree/explore.ipynb $(JUPYTER) notebooks

test: setup-test ## run the tests
	@echo "==> tests"
	@$(PYTEST) $(TOGETHER) -m "not slow and not alone"
	@echo "==> tests that measure, one by one"
	@$(PYTEST) -m "not slow and alone"

audit: setup-test ## look for known vulnerabilities in the locked dependencies
	@echo "==> audit of the dependencies"
	@if said=$$($(BIN)/pip-audit $(patsubst %,--requirement %,$(LOCKS)) --disable-pip --progress-spinner off 2>&1); then \
		missed=$$(grep -c 'could not be audited' <<<"$$said" || true); \
		[ $$missed = 0 ] && echo "    no known vulnerability" || echo "    $$missed could not be audited: no way to the advisories from here, or not on PyPI"; \
	elif grep -qE 'ConnectionError|NewConnectionError|NameResolution|Max retries|timed out|Connection refused' <<<"$$said"; then \
		echo "    not audited: no way to the advisories from here"; \
	else \
		echo "$$said"; exit 1; \
	fi

test-all: audit ## run the tests and the heavier checks, and tell what they cover
	@echo "==> MLPerf's LoadGen, for the tests against it"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --editable '.[loadgen]' || echo "    not to be had for this Python: those tests will be skipped"
	@$(MAKE) --no-print-directory ray || echo "    not to be had for this Python: those tests will be skipped"
	@echo "==> all tests"
	@rm -f .coverage
	@$(PYTEST) $(TOGETHER) -m "not slow and not alone" $(COVERAGE)=
	@echo "==> tests of servers again, with threads of two processes"
	@$(PYTEST) $(TOGETHER) -m "not slow and not alone" --server-processes 2 tests/reliability tests/server
	@echo "==> the heavier ones, and those that measure, one by one"
	@$(PYTEST) -m "slow or alone" $(COVERAGE)=term:skip-covered

ray: setup ## install Ray, for sweeps on several machines (docs/cluster.md)
	@echo "==> Ray"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --requirements pyproject.toml --extra ray

browser: ## install the browser that the page's tests drive (Debian's chromium), where apt is there and it is missing
	@echo "==> browser"
	@set -o pipefail; if found=$$(command -v chromium || command -v chromium-browser || command -v google-chrome); then \
		echo "    it is here: $$found"; \
	elif ! command -v apt-get >/dev/null; then \
		echo "    no Chromium and no apt here: the page's tests will be skipped"; \
	elif [ $$(id -u) != 0 ] && ! command -v sudo >/dev/null; then \
		echo "    apt needs root and there is no sudo: the page's tests will be skipped"; \
	else \
		echo "    installing Debian's chromium with apt (once, some hundred megabytes)"; \
		as_root=$$([ $$(id -u) = 0 ] || echo sudo); \
		apt() { $$as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -qq "$$@" </dev/null 2>&1 | $(APT_ERRORS); }; \
		apt update && apt install -y --no-install-recommends chromium && echo "    installed: $$(command -v chromium)" \
			|| { echo "error: apt could not install chromium; without it the page's tests are skipped"; exit 1; }; \
	fi

lint: setup-test ## check style, types and the direction of imports
	@echo "==> lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# All are resolved together; each file then has what those before it have not.
lock: setup ## resolve the dependencies anew and write the locks
	@set -e; place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	compile() { $(BIN)/uv pip compile pyproject.toml --group build $$(printf -- '--extra %s ' $(SWEEP) $$2) --universal --python-version 3.10 \
		--generate-hashes --no-annotate --no-header --no-strip-extras --quiet $$3 $$4 -o "$$place/$$1"; }; \
	less() { echo "# Written by \`make lock\`."; \
		awk -v last="$$place/$$1" 'FILENAME != last { have[$$0]; next } /^[^ ]/ { on = !($$0 in have) } on' "$${@:2}" "$$place/$$1"; }; \
	compile all "lab servers models test"; \
	compile sweep "" -c "$$place/all"; compile lab lab -c "$$place/all"; compile servers "servers models" -c "$$place/all"; \
	less sweep > requirements.lock; less lab requirements.lock > requirements-lab.lock; less servers requirements.lock > requirements-servers.lock; \
	less all $(filter-out requirements-test.lock,$(LOCKS)) > requirements-test.lock

clean: ## remove the environment, caches and measured outputs (models stay; outputs/models goes by hand)
	@echo "==> removing $(VENV), caches and outputs (but outputs/models and outputs/example)"
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage *.egg-info
	@find outputs -mindepth 1 -maxdepth 1 ! -name models ! -name example -exec rm -rf {} + 2>/dev/null || true
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
