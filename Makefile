# make demo, make test: everything from nothing, on a machine with python3, g++ and make.
# make test-models, lint, bench, coverage, bazel, clean: for those who change the code.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The string list of pyproject.toml's build-system.requires, as shell words.
BUILD_REQUIRES := $(shell sed -n 's/^requires = \[\(.*\)\]$$/\1/p' pyproject.toml | sed 's/", "/" "/g')
MODELS_REQUIRE := $(shell sed -n 's/^models = \[\(.*\)\]$$/\1/p' pyproject.toml | sed 's/", "/" "/g')
CXX_FILES = $(shell find csrc -name '*.cc' -o -name '*.h')

.PHONY: build demo test test-models bench coverage lint format bazel clean
.DEFAULT_GOAL := build

# What the native build needs: TensorFlow, setuptools, pybind11, ninja.
$(VENV)/.tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(BUILD_REQUIRES)
	@touch $@

# Compiles what has changed.
build: $(VENV)/.tools
	@$(BIN)/python setup.py --quiet build_ext --inplace

# The package, in place, with what tests and demo need. After `build`, so that this compiles nothing.
$(VENV)/.installed: pyproject.toml | build
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[test,demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $@

demo: build $(VENV)/.installed
	$(BIN)/python examples/train_digits.py

test: build $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile tests

# Real models against GradientTape: minutes. What they need is kept apart, as it wants an older numpy; all else is that
# of $(VENV). MODELS='ResNet GPflow' chooses by name.
$(VENV)-models/.installed: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m venv $(VENV)-models
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(VENV)-models/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	$(VENV)-models/bin/python -m pip install --quiet $(MODELS_REQUIRE)
	@touch $@

test-models: build $(VENV)-models/.installed
	$(VENV)-models/bin/python -m tests.models $(MODELS)

bench: build $(VENV)/.installed
	$(BIN)/python -m benchmarks

# docs/coverage.md and the table that it is made of, from the rules, the cases and TensorFlow's registries.
coverage: build $(VENV)/.installed
	$(BIN)/python -m tests.coverage

lint: build $(VENV)/.dev
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc -name '*.cc' | xargs -n 1 -P $${MAX_JOBS:-2} $(BIN)/clang-tidy -p build --quiet

format: $(VENV)/.dev
	$(BIN)/clang-format -i $(CXX_FILES)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The op library by Bazel, from the same list of sources. Needs `bazel` (Debian: bazel-bootstrap) and no network.
bazel: $(VENV)/.tools
	PYTHON=$(abspath $(BIN)/python) bazel build --jobs=$${MAX_JOBS:-2} //:libtf_symgrad.so

clean:
	rm -rf build dist bazel-* *.egg-info tf_symgrad/include tf_symgrad/pkgconfig tf_symgrad/*.so tf_symgrad/_build_info.json
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
