# Everything happens in a virtual environment of the project's own, pinned by constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint format install aarch64 clean

demo: install
	$(BIN)/netgraft run --preset demo --out runs/demo

test: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(INSTALLED)

# PyTorch comes first, by exact version: every other package then takes the build that is there.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("netgraft needs Python 3.11 or newer; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# For one test: an aarch64 Python with ONNX Runtime, run by qemu-user. Needs Debian's apt and qemu-user-static.
aarch64:
	tests/devices/aarch64.sh .aarch64

clean:
	rm -rf $(VENV) .aarch64 runs
