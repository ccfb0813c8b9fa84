# On a fresh machine, run `make demo` or `make test`. Both need Python 3.10 or later.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Trained models for the tests, installed without dependencies (OpenCV and others).
OCR_MODELS := rapidocr-onnxruntime==1.4.4

# Where it is set, each of the many processes of the tests compiles all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-cuda lint docs serve-docs models schema clean

demo: $(VENV)/installed
	$(BIN)/bnfold optimize models/dropout_before_pool.onnx dropout_before_pool.bnfold.onnx
	$(BIN)/bnfold explain models/preactivation_resnet.onnx

# The tests write thousands of files: into memory, where it has 8 GB for them.
FREE_KIB := $(lastword $(shell df --output=avail /dev/shm 2>/dev/null))
MEMORY := $(shell test "$(FREE_KIB)" -gt 8000000 2>/dev/null && echo TMPDIR=/dev/shm)
# More processes than two cores: many tests wait for files and for processes of their own. Threads of
# numpy would wait for one another there.
PYTEST := $(MEMORY) OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 4 --dist worksteal

test: $(VENV)/installed-dev
	$(PYTEST) -m "not slow"

# The largest models, and long chains.
test-slow: $(VENV)/installed-dev
	$(PYTEST) -m slow

test-cuda: $(VENV)/installed-dev
	$(BIN)/pytest -m cuda -rs

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Builds the documentation into site/; every warning is an error.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build

serve-docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

# Regenerates the tables of models/README.md.
models: $(VENV)/installed
	$(BIN)/python models/describe.py > models/README.md

# Regenerates the JSON Schema of the record from its dataclasses.
schema: $(VENV)/installed
	$(BIN)/python -m bnfold.record.schema > docs/report.schema.json

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Python 3.10 or later is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(OCR_MODELS)
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cpu,docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist site src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
