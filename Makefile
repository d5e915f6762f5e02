# make demo    from a fresh clone to a report: phantom knees made, prepared, graded (CPU, minutes)
# make test    the fast tests; EXTRAS=test,torch also runs the parity tests against PyTorch
# make test-beam    those of Apache Beam, which is installed apart, with older libraries of its own
# make lint    ruff and mypy

PYTHON ?= python3
EXTRAS ?= test
BIN := .venv/bin
comma := ,
installed = .venv/.installed-$(subst $(comma),-,$(1))

.PHONY: install demo test test-slow test-beam lint benchmark clean

install: $(call installed,$(EXTRAS))

.venv/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv

.venv/.installed-%: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(if $(filter none,$*),,[$(subst -,$(comma),$*)])'
	touch $@

demo: $(call installed,none)
	$(BIN)/python -m knee_jax.main --config=configs/kpn.py:demo --workdir=runs/demo

test: install
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

.beam/apache_beam: | $(call installed,$(EXTRAS))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target .beam apache-beam==2.77.0

test-beam: install .beam/apache_beam
	PYTHONPATH=.beam $(BIN)/python -m pytest -m 'slow or not slow' tests/datasets/test_beam.py

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

benchmark: install
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv .beam build *.egg-info .mypy_cache .ruff_cache
