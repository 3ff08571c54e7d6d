# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# A Python that has torch keeps its own; otherwise a virtual environment gets the pinned versions, which on a machine
# without a GPU keeps pip from fetching gigabytes of CUDA.
OWN_TORCH := $(shell $(PYTHON) -c "import torch" 2>/dev/null && echo yes)
GPU := $(shell command -v nvidia-smi)
CONSTRAINTS := $(if $(or $(OWN_TORCH),$(GPU)),,--constraint constraints.txt)
# Without a card the CUDA kernels are compiled only where FASTUNLEARN_CUDA=1 asks for them.
export FASTUNLEARN_CUDA ?= $(if $(GPU),auto,0)
READY := $(VENV)/.ready-cuda-$(FASTUNLEARN_CUDA)

# Threads that spin while they wait cost more than they bring on a small or busy machine.
export OMP_WAIT_POLICY = passive

.PHONY: demo test test-all bench gpu-check lint table-mnist clean

demo: $(READY)
	@rm -rf runs/demo
	$(BIN)/fastunlearn unlearn adapt-then-unlearn --gan mnist32 --forget 8 --out runs/demo \
	  --config fastunlearn/pretrained/mnist32/demo.yaml
	$(BIN)/fastunlearn evaluate runs/demo

test: $(READY)
	FASTUNLEARN_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -m "not slow" -q --durations=10

test-all: $(READY)
	FASTUNLEARN_REQUIRE_NATIVE=1 $(BIN)/python -m pytest

# Ten minutes on two cores; `make bench FULL=1` runs every case. How threads wait is left to OpenMP: a user's are timed.
bench: $(READY)
	@mkdir -p build
	env -u OMP_WAIT_POLICY OMP_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks -q -s -rs -k "not cuda" \
	  --timeout 1800 --benchmark-quiet --benchmark-json build/bench.json $(if $(FULL),--full)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/roofline.py build/bench.json
	$(BIN)/python benchmarks/report.py build/bench.json --out benchmarks/results --chart docs/images/bench.png

# With the Python and the packages that are here: a machine with a card has its own torch.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py

lint: $(READY)
	$(BIN)/pip install -q $(CONSTRAINTS) ruff clang-format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

table-mnist: $(READY)
	$(BIN)/python benchmarks/table_mnist.py --out runs/table-mnist
	$(BIN)/python benchmarks/table_mnist.py --out runs/table-mnist --sweep

clean:
	rm -rf build dist *.egg-info fastunlearn/*.so $(VENV)/.ready-*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(if $(OWN_TORCH),--system-site-packages) $(VENV)

$(READY): $(VENV)/bin/python pyproject.toml setup.py $(shell find csrc -type f)
	$(if $(OWN_TORCH),,$(BIN)/pip install $(CONSTRAINTS) torch)
	$(BIN)/pip install $(CONSTRAINTS) "setuptools>=77" numpy
	$(BIN)/pip install $(CONSTRAINTS) --no-build-isolation --editable ".[test]"
	@rm -f $(VENV)/.ready-* && touch $@
