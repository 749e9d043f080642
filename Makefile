SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed
TREE := build/types

.PHONY: help install demo test lint format types docs package clean

help:  ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# Norse and SpikingJelly replay NIR exports in the tests; all that they ask for would bring another torch.
install: $(STAMP)  ## create .venv with snn-rl (editable) and the development tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps nirtorch norse spikingjelly loguru
	touch $@

demo: $(STAMP)  ## train on CartPole-v1, evaluate every stage, write the report
	$(BIN)/snn-rl train --env CartPole-v1
	$(BIN)/snn-rl evaluate --trials 20
	$(BIN)/snn-rl report

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

lint: $(STAMP)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## fix style and formatting in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy follows neither package-dir mappings nor editable import hooks, so it reads a
# copy laid out as installed; sed turns its paths back into the repository's.
types: $(STAMP)  ## check the types of the whole package
	rm -rf $(TREE)
	mkdir -p $(TREE)
	cp -R snn_rl $(TREE)/snn_rl
	cp -R envs agents configs $(TREE)/snn_rl
	rm -r $(TREE)/snn_rl/agents/zoo
	cd $(TREE) && $(CURDIR)/$(BIN)/mypy -p snn_rl \
		--config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache \
		| sed -E 's#^snn_rl/(envs|agents|configs)/#\1/#'

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

docs: $(DOCS_STAMP)  ## build the documentation, running its tutorials, into build/docs
	rm -rf build/docs build/docs-cache build/docs-extra
	$(BIN)/python docs/live/make.py build/docs-extra/live
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m sphinx -W --keep-going -q -b html \
		-d build/docs-cache docs build/docs
	@echo "documentation: build/docs/index.html"

package: $(STAMP)  ## build sdist and wheel into dist/ and try the wheel in an empty environment
	rm -rf dist build/empty
	$(BIN)/python -m build --outdir dist . >/dev/null
	test "$$(stat -c %s dist/*.whl)" -le 80000000
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd build/empty && bin/snn-rl --version && bin/snn-rl evaluate --agent zoo:CartPole-v1/T1 --trials 5
	@ls -l dist

clean:  ## remove the environment, build products and caches (never runs/ or data/)
	rm -rf $(VENV) build dist docs/reference *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
