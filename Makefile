# make demo    from a fresh clone to a report: phantom knees made, prepared, graded (CPU, minutes)
# make test    the fast tests; EXTRAS=test,torch also runs the parity tests against PyTorch
# make test-all    these and the slow ones: whole runs, kills, several devices, every variant
# make test-long   studies of many minutes: fuzzing by the thousand, folds side by side
# make test-beam    those of Apache Beam, which is installed apart, with older libraries of its own
# make chaos    a run interrupted twenty times, in every way, ends in the bits of an undisturbed one
# make lint    ruff and mypy
# make weights    the trained models that come with the project, made again from real knees
# make benchmark    all that is measured on a CPU; benchmarks/accelerator.sh does it on one GPU
# make dist    wheel and sdist; the wheel alone, in an environment and a folder of its own, runs a demo

PYTHON ?= python3
EXTRAS ?= test
BIN := .venv/bin
comma := ,
installed = .venv/.installed-$(subst $(comma),-,$(1))

.PHONY: install demo test test-all test-added test-long test-beam chaos lint dist weights benchmark clean

install: $(call installed,$(EXTRAS))

.venv/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv

.venv/.installed-%: .venv/bin/python pyproject.toml setup.py constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(if $(filter none,$*),,[$(subst -,$(comma),$*)])'
	touch $@

demo: $(call installed,none)
	$(BIN)/knee-jax demo

test: install
	$(BIN)/python -m pytest

test-all: install
	$(BIN)/python -m pytest -m 'not long'

# What test-all adds to test.
test-added: install
	$(BIN)/python -m pytest -m 'slow and not long'

test-long: install
	$(BIN)/python -m pytest -m long

.beam/apache_beam: | $(call installed,$(EXTRAS))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target .beam apache-beam==2.77.0

test-beam: install .beam/apache_beam
	PYTHONPATH=.beam $(BIN)/python -m pytest -m 'long or not long' tests/datasets/test_beam.py

chaos: install
	$(BIN)/python -m tests.training.chaos

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# A demo of a minute; DEMO= runs that of the README.
DEMO ?= --config.data.dataset=phantom_xray/tiny --config.epochs=2 --config.input.size=64 \
	--config.model.width=8 --config.batch_size=8 --config.evaluation.batch_size=8 \
	--config.evaluation.num_resamples=50

# The wheel is installed apart, without the checkout; what it depends on is taken from .venv.
dist: $(call installed,dist)
	rm -rf dist .venv-dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		$$(.venv-dist/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth
	mkdir .venv-dist/empty
	cd .venv-dist/empty && ../bin/knee-jax demo $(DEMO)
	test -s .venv-dist/empty/runs/demo/report/index.html

# Trained models that come with the project, made again from the real knees in KNEEKL224, and the
# localiser, from phantom films.
KNEEKL224 ?= ../shared/data/kneekl224
weights: $(call installed,imagenet)
	$(BIN)/knee-jax train --config=kl:best --config.data.manual_dir=$(KNEEKL224) \
		--workdir=runs/weights/kl-kneekl224
	rm -f knee_jax/weights/kl-kneekl224.knee
	$(BIN)/knee-jax export runs/weights/kl-kneekl224 --half --out=knee_jax/weights/kl-kneekl224.knee \
		--card=knee_jax/weights/kl-kneekl224.md
	$(BIN)/knee-jax train --config=siamese_gap:best,quick --config.data.manual_dir=$(KNEEKL224) \
		--workdir=runs/weights/early-kneekl224
	rm -f knee_jax/weights/early-kneekl224.knee
	$(BIN)/knee-jax export runs/weights/early-kneekl224 --half \
		--out=knee_jax/weights/early-kneekl224.knee --card=knee_jax/weights/early-kneekl224.md
	$(BIN)/knee-jax train --config=landmarks --workdir=runs/weights/landmarks
	rm -f knee_jax/weights/landmarks.knee runs/weights/phantom.knee
	$(BIN)/knee-jax export runs/weights/landmarks --half --out=runs/weights/phantom.knee
	cp runs/weights/phantom.knee knee_jax/weights/landmarks.knee
	unzip -o -d runs/weights runs/weights/phantom.knee model.safetensors
	$(BIN)/knee-jax prepare --dataset=adapted_windows/kneekl224 --manual_dir=$(KNEEKL224)
	$(BIN)/knee-jax train --config=landmarks:adapted --workdir=runs/weights/landmarks-adapted \
		--config.init_from=runs/weights/model.safetensors
	rm knee_jax/weights/landmarks.knee
	$(BIN)/knee-jax export runs/weights/landmarks-adapted --half \
		--out=knee_jax/weights/landmarks.knee --card=knee_jax/weights/landmarks.md

benchmark: install
	PYTHON=$(BIN)/python benchmarks/processor.sh

clean:
	rm -rf .venv .venv-dist .beam build dist *.egg-info .mypy_cache .ruff_cache
