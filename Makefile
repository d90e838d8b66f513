# Each target sets up what it needs: Debian with Python 3.11 and nothing else is enough to begin with.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(shell command -v python3.11) $(shell command -v python3) python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Other people's FHIR clients, for the end-to-end tests.
CLIENTS := .build/node/.ready
# Started by tests and benchmarks themselves, on free ports.
RABBITMQ := rabbitmq-server=rabbitmq-server
POSTFIX := postfix=postfix
# Networks of their own, with cables between them.
NETNS := ip=iproute2 unshare=util-linux nsenter=util-linux
SOURCES := broker plugins tests benchmarks demo
# What is there: demo and the tests grow from commit to commit.
CODE = $(wildcard $(SOURCES))

.PHONY: demo test check bench simulate fmt fuzz soak docs lock clean

demo: $(READY)  ## the main job on real messages, showing what happened
	$(BIN)/python demo/run.py $(ARGS)

test: $(READY) $(CLIENTS)  ## every test; ARGS="tests/core -q" for some
	scripts/need $(RABBITMQ) $(POSTFIX) $(NETNS)
	$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),scripts/tests $(BIN)/python)

check: $(READY)  ## format, lint, types, import arrows, spelling
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy --strict broker plugins
	$(BIN)/mypy --strict benchmarks
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

bench: $(READY)  ## the broker beside a bare program and RabbitMQ, interleaved; ARGS="--quick --only a,b --json FILE"
	scripts/need $(RABBITMQ)
	$(BIN)/python benchmarks/run.py $(ARGS)

simulate: $(READY)  ## networks of brokers, taken apart by a seed; ARGS="--seed 7" shows one again, with its history
	$(BIN)/python tests/simulation/simulate.py $(if $(ARGS),$(ARGS),--seeds 20000)

fmt: $(READY)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

fuzz: $(READY)  ## any bytes: a message or a documented refusal; longer than `make test` takes it
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=fuzz --timeout=1800 $(ARGS)

soak: $(READY)  ## three brokers in networks of their own, and what goes wrong there; ARGS="--minutes 30 --seed 1"
	scripts/need $(NETNS)
	$(BIN)/python tests/e2e/netns/soak.py $(ARGS)

docs: $(READY)  ## the settings page anew; what the pages say is run, and what they must name is named
	$(BIN)/python -m broker.config.document > .build/settings.md
	mv .build/settings.md docs/settings.md
	$(BIN)/python -m pytest tests/docs $(ARGS)

lock: $(READY)  ## constraints.txt anew from pyproject.toml; it names versions and hashes, and no host
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options --no-annotate --no-header \
	    --extra dev --build-deps-for editable --output-file .build/constraints.txt pyproject.toml
	grep -v -E '^ *(--?(i|f|index|extra-index|find|trusted)|#)|://' .build/constraints.txt | sed '/^$$/d' | cat <(sed -n '/^#/p' constraints.txt) - > .build/constraints.new
	mv .build/constraints.new constraints.txt

clean:
	rm -rf $(VENV) .build build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt scripts/need
	PYTHON="$(PYTHON)" scripts/need "$(PYTHON)"=python3 venv=python3-venv
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; PYTHON=... names one")'
	test -x $(BIN)/python || "$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	rm -rf fhir_broker.egg-info  # left by the build, and found before what is installed: it would go on naming old channels
	$(BIN)/python -m pip --disable-pip-version-check check
	mkdir -p .build
	touch $@

$(CLIENTS): tests/e2e/clients/package.json tests/e2e/clients/package-lock.json scripts/need
	scripts/need node=nodejs npm=npm curl=curl openssl=openssl
	mkdir -p $(@D)
	cp tests/e2e/clients/package.json tests/e2e/clients/package-lock.json $(@D)/
	npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
	touch $@
