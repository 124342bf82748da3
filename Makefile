# The two commands of the README, and what a developer needs besides. Everything is installed into .venv, in this folder.

PYTHON ?= python3
BIN := .venv/bin
# The extras are added one by one, so that the demonstration does not wait for the tools of the tests.
TRAIN := .venv/.train
TEST := .venv/.test
OLDEST := .venv-oldest/.ready
# Processes that tests run in. On a GPU more of them share the compilation of the kernels: make test WORKERS=8.
WORKERS ?= 2
# Each begins with a share of the tests in the order of their files, and takes over from another when it is done: so what
# a module makes once is rarely made twice.
PYTEST := -m pytest -n $(WORKERS) --dist worksteal
# Of the tests, those that find most in the shortest time: of blocks, models, losses, data and the tolerance rule, and of
# the two simplest operators on torch algebra; no test that starts two processes, which import everything anew.
CHECK := tests/test_labels.py tests/test_tasks.py tests/test_losses.py tests/test_layers.py tests/test_error_grammar.py \
    tests/metrics tests/nn tests/models tests/data tests/reference tests/ops/shared tests/ops/test_linear_attention.py tests/ops/test_softplus.py \
    tests/ops/verification/test_tolerance.py tests/ops/verification/test_draws.py tests/ops/verification/test_false_alarms.py
CXX_FILES = $(shell find csrc tests/csrc -name "*.cu" -o -name "*.cpp" -o -name "*.h")

.PHONY: help demo check test test-processors test-compiled test-oldest gpu lint format clean

help:
	@echo "make demo    train the network on rendered rooms and show what it predicts, 10 to 15 minutes"
	@echo "make check   check style and types and run the tests that find most, under two minutes"
	@echo "make test    check the style and run all tests, about half an hour on two cores"
	@echo "make lint    check style and types"
	@echo "make format  put the style right"
	@echo "make test-processors  run the numerical tests as other processors would, with one thread and two"
	@echo "make test-oldest    run the tests of the operators with the oldest torch, Triton and NumPy that are supported"
	@echo "make test-compiled  build a wheel with nvcc, import it and examine its kernels: registers, spills, instructions"
	@echo "make gpu     on a machine with a GPU: tests and benchmarks in stages, nothing installed (docs/gpu.md)"
	@echo "make clean   remove what these commands made"

# Threads that wait for each other in a loop take minutes a step where another program has their core.
demo: $(TRAIN)
	@echo "Training on rendered rooms, then scoring on rooms it has not seen: 10 to 15 minutes on two idle cores"
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m seqca.training.demo --config configs/demo.yaml

check: lint
	$(BIN)/python $(PYTEST) $(CHECK) -k "not triton and not two_processes"

test: lint
	$(BIN)/python $(PYTEST) --durations 20 --ignore tests/csrc/test_compiled.py

test-processors: $(TEST)
	$(BIN)/python -m tests.processors

test-compiled: $(TEST)
	SEQCA_BUILD=1 $(BIN)/python -m pytest tests/csrc/test_compiled.py

gpu:
	$(PYTHON) -m benchmarks.gpu

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/mypy

format: $(TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

test-oldest: $(OLDEST)
	.venv-oldest/bin/python $(PYTEST) tests/reference tests/ops tests/kernels \
	    --ignore tests/ops/verification/test_faults.py --ignore tests/ops/verification/test_false_alarms.py \
	    -m "not exhaustive" --durations 20

$(TRAIN): pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train]'
	@touch $@

$(TEST): pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,test]'
	@touch $@ $(TRAIN)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; Python 3.10 or newer is needed"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Python 3.10 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); give another one: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	    { echo "$(PYTHON) lacks the module venv; Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Setting up .venv: a few minutes, most of them spent downloading torch"
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# The operators need nothing but torch, which brings its Triton, and NumPy.
$(OLDEST): pyproject.toml setup.py | $(BIN)/python
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
	    'torch==2.11.*' 'numpy<2.4' 'pytest>=8' 'pytest-xdist>=3.6'
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	.venv-oldest/bin/python -c 'import torch, triton, numpy; \
	    print("torch", torch.__version__, "Triton", triton.__version__, "NumPy", numpy.__version__); \
	    assert triton.__version__.startswith("3.6.")'
	@touch $@

clean:
	rm -rf .venv .venv-oldest runs build .pytest_cache .ruff_cache .mypy_cache seqca.egg-info
