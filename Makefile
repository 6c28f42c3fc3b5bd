# Both targets make .venv and install what they need into it; everything else is plain commands.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

# Each process begins with half of the tests (worksteal), so that the fixtures of a module are mostly made once.
TESTS := OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n auto --dist worksteal

# The packages whose annotated shapes a test run checks at every call, which takes half as long again.
SHAPES := --jaxtyping-packages=xattn,beartype.beartype

# The oldest versions that pyproject.toml admits of what xattn is plugged into, before those of the environment.
OLDEST := $(VENV)/oldest

TOUCHING := tests/integrations tests/metrics/test_synchronised.py tests/models/test_text_words.py \
	tests/training/test_text_words.py tests/data/prepare/features/test_by_name.py tests/data/prepare/test_patches.py \
	tests/evaluation/test_foreign.py

.PHONY: demo test test-shapes test-slow test-oldest lint docs benchmark clean

demo: $(INSTALLED)  ## Render scenes, train SCAN without and with the constraints, compare, draw (three to seven minutes on 2 cores)
	$(VENV)/bin/xattn demo --out demo

test: $(INSTALLED)  ## All fast tests
	$(TESTS) -m "not slow"

test-shapes: $(INSTALLED)  ## The tests of the numerics once more, with every shape in a signature checked
	$(TESTS) -m "not slow" $(SHAPES) tests/attention tests/losses tests/metrics tests/models

test-slow: $(INSTALLED)  ## The tests that take longer
	$(TESTS) -m slow

test-oldest: $(INSTALLED)  ## What touches other libraries, with the oldest of their versions
	$(PYTHON) -m venv $(OLDEST)
	$(VENV)/bin/python -c "import sys; print(*(p for p in sys.path if p.endswith(('/site-packages', '/src'))), sep='\n')" > $$($(OLDEST)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/newer.pth
	$(OLDEST)/bin/pip install --quiet --requirement .ci/oldest.txt
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto --dist worksteal -m "not slow" -W "ignore:Deprecated in 0.9.0:DeprecationWarning" $(TOUCHING)

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
