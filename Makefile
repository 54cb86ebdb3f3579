# make run    trains PRISM_SASRec on ml-100k with real image and text features, then plain SASRec; sets up first if needed
# make help   lists the rest
#
# PYTHON=/path/to/python names the interpreter for .venv; ARGS="--epochs=1" adds to run, test and bench.
# pip's own settings apply. On Linux without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares the
# CUDA libraries that PyTorch's default build brings.

PYTHON = python3 python3.13 python3.12 python3.11 python3.10
ARGS =
VENV = .venv
PY = $(VENV)/bin/python
STAMP = $(VENV)/set-up
PIP = $(PY) -m pip --disable-pip-version-check install

.PHONY: help setup run test lint bench

help:
	@echo "make setup   create $(VENV) and install everything at the versions of constraints.txt"
	@echo "make run     train PRISM_SASRec on ml-100k with image and text features, and plain SASRec beside it"
	@echo "make test    run the tests"
	@echo "make lint    check style and format (ruff)"
	@echo "make bench   compare the speed with RecBole's own models"
	@echo "Each does the set-up first where it is missing. PYTHON=... names the interpreter, ARGS=... adds arguments."

setup: $(STAMP)
	@:

run: $(STAMP)
	$(PY) run_recbole_prism.py --model=PRISM_SASRec,SASRec --dataset=ml-100k --training_mode=packed $(ARGS)

test: $(STAMP)
	$(PY) -m pytest -q tests $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: $(STAMP)
	$(PY) benchmarks/speed.py $(ARGS)

# A Python that works, or the reason why not.
$(PY):
	@for python in $(PYTHON); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$python"; exec "$$python" -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "RecBole-PRISM needs CPython 3.10 to 3.13; tried: $(PYTHON)" >&2; \
	echo "Name one: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 1

# constraints.txt names every package, so pip resolves nothing (--no-deps); torch alone may bring what its build needs,
# its CUDA libraries. The stamp is written last: an interrupted set-up goes on where it stopped.
$(STAMP): constraints.txt setup.py
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null 2>&1 || \
	  { rm -rf $(VENV) && $(MAKE) --no-print-directory $(PY); }
	@echo "installing torch, the largest download"
	@$(PIP) -c constraints.txt torch
	@echo "installing the other packages of constraints.txt"
	@$(PIP) --quiet --no-deps -r constraints.txt
	@$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)
