# make demo    sets everything up and shows the whole way from raw clips to a trained model
# make test    lint, types, import layers and the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test lint format docs bench clean help

help:
	@sed -n 's/^# make/make/p' Makefile

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/mer demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

# make docs    the documentation, into site/index.html
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# make bench   ratios of extraction, of the store and of training against the plain way (minutes)
bench: $(INSTALLED)
	$(BIN)/python -m bench.extract
	$(BIN)/python -m bench.store
	$(BIN)/python -m bench.fuse

# make format  rewrites the sources in the house format
format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make clean   removes what the demo and the tools left behind (not the environment)
clean:
	rm -rf .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis build site *.egg-info
