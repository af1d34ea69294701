# make demo, make test: everything from nothing, on a machine with python3, g++ and make.
# make help: all targets, with the minutes that they take on 2 cores.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The string list of pyproject.toml's build-system.requires, as shell words.
BUILD_REQUIRES := $(shell sed -n 's/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | sed 's/", "/" "/g')
WHEEL_REQUIRES := $(shell sed -n 's/^wheel = \[\(.*\)\]$$/\1/p' pyproject.toml | sed 's/", "/" "/g')
DOCS_REQUIRE := $(shell sed -n 's/^docs = \[\(.*\)\]$$/\1/p' pyproject.toml | sed 's/", "/" "/g')
MODELS_REQUIRE := $(shell sed -n 's/^models = \[\(.*\)\]$$/\1/p' pyproject.toml | sed 's/", "/" "/g')
CXX_FILES = $(shell find csrc tests/fuzz tests/sanitize examples -name '*.cc' -o -name '*.h' -o -name '*.c')

.PHONY: help build demo test test-gpu wheel test-wheel test-models test-all mutation fuzz sanitize soak leaks bench bench-steps bench-single bench-compare performance bench-fit bench-remat coverage docs lint format bazel clean
.DEFAULT_GOAL := build

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# What the native build needs: TensorFlow, setuptools, pybind11, ninja.
$(VENV)/.tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(BUILD_REQUIRES)
	@touch $@

# Compiles what has changed.
build: $(VENV)/.tools ## compiles what has changed (3, the first time)
	@$(BIN)/python setup.py --quiet build_ext --inplace

# The package, in place, with what tests and demo need. After `build`, so that this compiles nothing.
$(VENV)/.installed: pyproject.toml | build
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[test,demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

demo: build $(VENV)/.installed ## trains a network on digits by the op alone (4, the first time)
	$(BIN)/python examples/train_digits.py

test: build $(VENV)/.installed ## the tests (13); those that want a GPU, where there is one
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10 tests
	$(if $(wildcard /dev/nvidia0),$(MAKE) test-gpu)

test-gpu: build $(VENV)/.installed ## the gradients of all cases, and of programs, on a GPU (2)
	$(BIN)/python -m pytest -n $${MAX_JOBS:-2} -m gpu --durations 10 tests/test_gpu.py

mutation: build $(VENV)/.installed ## the cases against gradients that are 0.1 % wrong: who is not found out (15)
	$(BIN)/python -m tests.mutation

# Real models against GradientTape: minutes. What they need is kept apart, as it wants an older numpy; all else is that
# of $(VENV). MODELS='ResNet GPflow' chooses by name.
$(VENV)-models/.installed: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m venv $(VENV)-models
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(VENV)-models/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	$(VENV)-models/bin/python -m pip install --quiet $(MODELS_REQUIRE)
	@touch $@

test-models: build $(VENV)-models/.installed ## real models, and Keras 2, against GradientTape (8)
	$(VENV)-models/bin/python -m tests.models $(MODELS)

# By coverage, random programs against the tape, damaged models: SECONDS in all. SEED=1000000 for others than last time.
fuzz: build $(VENV)/.installed ## fuzzing of engine, gradients and command line; by coverage where there is a clang (20)
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600) --first $(or $(SEED),0)

# The sanitizers of g++; TESTS='test_errors test_limits' chooses.
sanitize: build $(VENV)/.installed ## the native code under sanitizers of addresses, undefined behaviour and leaks (60)
	$(BIN)/python -m tests.sanitize $(TESTS)

# PARTS='docs lint' chooses; a part that fails does not stop the others.
test-all: build $(VENV)/.installed ## tests, models, fuzz, sanitizers, mutation, docs, lint and wheel, with one summary (150)
	$(BIN)/python -m tests.everything --venv $(VENV) $(PARTS)

soak: build $(VENV)/.installed ## 64 threads that trace, build and call at once: results and memory (10)
	$(BIN)/python -m tests.soak

# WAYS='eager builds' chooses.
leaks: build $(VENV)/.installed ## memory after 100,000 builds and calls, in each way to the engine (30)
	$(BIN)/python -m tests.leaks $(WAYS)

bench: build $(VENV)/.installed ## build time, nodes, steps and memory beside the stock op, tapes and JAX (60)
	$(BIN)/python -m benchmarks --json build/bench.jsonl

bench-steps: build $(VENV)/.installed ## steps of all methods by turns, so that their ratios mean something (20)
	$(BIN)/python -m benchmarks.steps

# OPTIONS='--dtype bfloat16 --order 2', say.
bench-single: build $(VENV)/.installed ## steps of the gradients of single ops, by turns with the tape's (10)
	$(BIN)/python -m benchmarks.single $(OPTIONS)

# A commit against another: make bench, mv build/bench.jsonl build/before.jsonl, make bench, make bench-compare.
bench-compare: $(VENV)/.installed ## what is slower than in build/before.jsonl (1)
	$(BIN)/python -m benchmarks.compare build/before.jsonl build/bench.jsonl

performance: $(VENV)/.installed ## the tables and plots of docs/performance.md from build/bench.jsonl (1)
	$(BIN)/python -m benchmarks.performance build/bench.jsonl

bench-fit: build $(VENV)/.installed ## Keras' fit with and without tf_symgrad.enable(), as ratios (10)
	$(BIN)/python -m benchmarks.fit

bench-remat: build $(VENV)/.installed ## peak memory and step time by what is kept of the forward pass (20)
	$(BIN)/python -m benchmarks.rematerialisation

# docs/coverage.md and the table that it is made of, from the rules, the cases and TensorFlow's registries.
coverage: build $(VENV)/.installed ## docs/coverage.md from the rules and the cases (1)
	$(BIN)/python -m tests.coverage

# The site needs nothing of the package but its sources.
$(VENV)-docs/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet $(DOCS_REQUIRE)
	@touch $@

docs: $(VENV)-docs/.installed ## the documentation as a site, in build/site (1)
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

lint: build $(VENV)/.dev ## clang-format, clang-tidy, ruff, mypy, pyright (15)
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict tests/data/typed_use.py
	$(BIN)/pyright --pythonpath $(BIN)/python tests/data/typed_use.py
	find csrc -name '*.cc' | xargs -n 1 -P $${MAX_JOBS:-2} $(BIN)/clang-tidy -p build --quiet

format: $(VENV)/.dev ## formats the code (1)
	$(BIN)/clang-format -i $(CXX_FILES)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The op library by Bazel, from the same list of sources. Needs `bazel` (Debian: bazel-bootstrap) and no network.
bazel: $(VENV)/.tools ## the op library by Bazel (3)
	PYTHON=$(abspath $(BIN)/python) bazel build --jobs=$${MAX_JOBS:-2} //:libtf_symgrad.so

clean: ## removes what was built
	rm -rf build dist bazel-* *.egg-info tf_symgrad/include tf_symgrad/pkgconfig tf_symgrad/*.so tf_symgrad/_build_info.json
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# manylinux, with TensorFlow's libraries left out: those are TensorFlow's package's.
wheel: $(VENV)/.tools ## dist/: a wheel for this Python, and the sources (5)
	$(BIN)/python -m pip install --quiet $(WHEEL_REQUIRES)
	rm -rf dist build/dist
	$(BIN)/python -m build --no-isolation --outdir build/dist .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude 'libtensorflow*' --wheel-dir dist build/dist/*.whl
	cp build/dist/*.tar.gz dist

test-wheel: wheel ## the wheel in an environment of its own (2)
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet dist/*.whl
	cd build && wheel/bin/python -c 'import tensorflow as tf, tf_symgrad; \
	  print(tf_symgrad.symbolic_gradient([tf.constant(2.0)], f=tf.math.asinh))'
	build/wheel/bin/tf-symgrad --version
