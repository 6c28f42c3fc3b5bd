# Both targets make .venv and install what they need into it; everything else is plain commands.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

# Each process begins with half of the tests (worksteal), so that the fixtures of a module are mostly made once.
TESTS := OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n auto --dist worksteal

# The packages whose annotated shapes a test run checks at every call, which takes half as long again.
SHAPES := --jaxtyping-packages=xattn,beartype.beartype

.PHONY: demo test test-shapes test-slow lint docs benchmark clean

demo: $(INSTALLED)  ## Render scenes, train SCAN without and with the constraints, compare, draw (three to seven minutes on 2 cores)
	$(VENV)/bin/xattn demo --out demo

test: $(INSTALLED)  ## All fast tests
	$(TESTS) -m "not slow"

test-shapes: $(INSTALLED)  ## The tests of the numerics once more, with every shape in a signature checked
	$(TESTS) -m "not slow" $(SHAPES) tests/attention tests/losses tests/metrics tests/models

test-slow: $(INSTALLED)  ## The tests that take longer
	$(TESTS) -m slow

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

docs: $(INSTALLED)  ## The documentation as a site, in docs/_build/html; runs the tutorials, and warnings are errors
	OMP_NUM_THREADS=1 $(VENV)/bin/sphinx-build -E -W --keep-going -q -b html docs docs/_build/html

benchmark: $(INSTALLED)  ## Speed of scores and of training steps on this machine (five minutes on 2 cores)
	$(VENV)/bin/python benchmarks/pairs.py
	$(VENV)/bin/python benchmarks/steps.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

clean:
	rm -rf $(VENV) demo dist docs/_build
