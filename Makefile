# Everything happens in a virtual environment of the project's own, pinned by constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint format install aarch64 clean

demo: install
	$(BIN)/netgraft run --preset demo --out runs/demo

# Every file of tests in a process of its own, two at a time, the longest first: a dozen runtimes that no program would
# load together, some with libraries of the same names, must not meet in one.
LONGEST := tests/test_reproduction.py tests/test_other_networks.py tests/test_several_devices.py
test: install
	echo $(LONGEST) $$(ls -S $$(find tests -name 'test_*.py') | grep -vFx "$$(printf '%s\n' $(LONGEST))") \
	    | xargs -n 1 -P 2 $(BIN)/python -m pytest -q

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
