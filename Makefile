# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= demo-out

.PHONY: help install demo test examples test-bare test-triton test-ray test-fuzz slow lint check format benchmarks clean

help:
	@echo "make demo        checkpoint -> ONNX -> INT8 -> report, on real images ($(DEMO)/report.html)"
	@echo "make test        the whole test suite"
	@echo "make lint        ruff, mypy --strict, import-linter"
	@echo "make check       lint, then test; CI adds test-bare, test-triton, test-ray and test-fuzz"
	@echo "make examples    web page, C++ and ARM on the bundle of the demo"
	@echo "make test-bare   the wheel with ONNX Runtime alone answers pictures"
	@echo "make test-triton the serving suite against a real Triton server"
	@echo "make test-ray    serve and verify on Ray"
	@echo "make test-fuzz   requests made up from the OpenAPI description"
	@echo "make slow        the full-size twenty-model matrix (minutes to an hour)"
	@echo "make benchmarks  the comparison suites whose results the README quotes"
	@echo "make format      let ruff rewrite the code's layout"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(None if ok else "error: Python 3.11, 3.12 or 3.13 is needed, this is %s; name one with make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable ".[all]" --group test --group lint
	@touch $@

demo: install
	$(BIN)/mscsa-deploy deploy topformer_t_mscsa.seg --preset quick --output-dir $(DEMO) --force

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow"

# The examples' tests on the bundle of `make demo` instead of a small one.
examples: demo
	MSCSA_DEPLOY_BUNDLE=$(DEMO) $(BIN)/python -m pytest tests/examples

# What an app installs, anew each time: the wheel as it is built now, with one inference library.
test-bare: install
	rm -rf .venv-bare
	$(PYTHON) -m venv .venv-bare
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir .venv-bare/wheel .
	.venv-bare/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  "$$(echo .venv-bare/wheel/*.whl)[onnxruntime]"
	MSCSA_DEPLOY_REQUIRE=bare MSCSA_DEPLOY_BARE=$(CURDIR)/.venv-bare $(BIN)/python -m pytest tests/bundle/test_bare.py

# Engines of others, each in an environment of its own: they are large, and their pins are not ours.
# Required there: a test that cannot run fails. tests/serving and the main environment drive them.

# A real Triton server, from the nvidia-pytriton wheel; its Python must be Debian's own 3.11.
TRITON_PYTHON ?= /usr/bin/python3.11

test-triton: install .venv-triton/.installed
	MSCSA_DEPLOY_REQUIRE=triton MSCSA_DEPLOY_TRITON=$(CURDIR)/.venv-triton \
	  $(BIN)/python -m pytest tests/serving/test_conformance.py

.venv-triton/.installed: Makefile constraints.txt
	$(TRITON_PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet nvidia-pytriton==0.7.0 "numpy<2" onnxruntime msgspec pillow platformdirs psutil
	@touch $@

# `serve --engine ray` and `verify --engine ray`.
test-ray: .venv-ray/.installed
	MSCSA_DEPLOY_REQUIRE=ray .venv-ray/bin/python -m pytest tests/serving/test_ray.py tests/workflow/test_spread.py

.venv-ray/.installed: Makefile pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-ray/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[serve,onnxruntime]" \
	  "ray[serve]==2.60.0" onnx onnx-ir pytest pytest-timeout pytest-randomly
	@touch $@

# Requests that schemathesis makes up from the OpenAPI description.
test-fuzz: install .venv-fuzz/.installed
	MSCSA_DEPLOY_REQUIRE=schemathesis MSCSA_DEPLOY_SCHEMATHESIS=$(CURDIR)/.venv-fuzz \
	  $(BIN)/python -m pytest tests/serving/test_schemathesis.py

.venv-fuzz/.installed: Makefile
	$(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/python -m pip install --quiet schemathesis==4.32.5
	@touch $@

slow: install
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: install
	$(BIN)/python benchmarks/run.py benchmarks/against_stock.toml

clean:
	rm -rf $(VENV) .venv-bare .venv-triton .venv-ray .venv-fuzz $(DEMO) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
