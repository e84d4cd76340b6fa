PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: run test lint bench bench-full clean

run: $(VENV)/run  ## start the daemon on 127.0.0.1:9000 with its embedded Redis
	$(BIN)/fastimd serve

test: $(VENV)/test  ## the whole suite; what compares times runs alone
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not alone" $(ARGS)
	$(BIN)/python -m pytest -m alone $(ARGS)

lint: $(VENV)/lint  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/bench  ## fastimd beside its peers, in some minutes
	$(BIN)/python bench/compare.py $(ARGS)

bench-full: $(VENV)/bench  ## the same in full; writes bench/RESULTS.md
	$(BIN)/python bench/compare.py --full $(ARGS)

clean:
	rm -rf $(VENV) build dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastimd needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[embedded]'
	touch $@

$(VENV)/test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[embedded,test]'
	touch $@

$(VENV)/bench: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[embedded,bench]'
	touch $@

$(VENV)/lint: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[embedded,test,lint]'
	touch $@
