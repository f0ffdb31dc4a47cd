# Every target that needs Python first makes .venv, or renews it when pyproject.toml or constraints.txt changed.
# The stamp is touched after a complete install only, so an interrupted one is taken up by the next `make`.
# Compiling 18,000 files to bytecode would double the install; Python compiles the few it imports at first use, and
# the empty PYTHONDONTWRITEBYTECODE lets it keep them where a container image forbids that.
PYTHON ?= python3
PRESET ?= quick
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE :=

.PHONY: study zoo test bench notebooks install constraints clean distclean help

study: $(STAMP) ## run the study's notebooks; PRESET=smoke|quick|full (default quick)
	@echo "study: the notebooks with preset $(PRESET); only what is missing or stale is run"
	@$(VENV)/bin/mtp-lab study --preset $(PRESET)

zoo: $(STAMP) ## put the trained models of the quick preset into runs/, so that notebooks train nothing
	@$(VENV)/bin/mtp-lab zoo unpack

test: $(STAMP) ## run the tests
	@echo "test: every test under tests/"
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

bench: $(STAMP) ## measure all that benchmarks/ holds and write benchmarks/results/report.html; NANOGPT=path of its model.py
	@$(PY) benchmarks/report.py $(if $(NANOGPT),--nanogpt "$(NANOGPT)")

# A kernel works in the folder of its notebook; the link lets it find the runs of the study.
notebooks: $(STAMP) ## open the notebooks in JupyterLab
	@mkdir -p runs && { test -e notebooks/runs || ln -s ../runs notebooks/runs; }
	$(VENV)/bin/jupyter lab notebooks

install: $(STAMP) ## make .venv and install into it; PYTHON=python3.12 picks the interpreter

$(STAMP): pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "error: '$(PYTHON)' is not Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }; \
	  echo "install: making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "install: the versions of constraints.txt into $(VENV) (a minute or more, and 2 GB, the first time)"
	@$(PY) -m pip install -q --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

constraints: $(STAMP) ## write the versions in .venv to constraints.txt
	@$(PY) -m pip freeze --exclude-editable --exclude setuptools --exclude wheel > $(VENV)/freeze.txt
	@{ grep '^#' constraints.txt; sed 's/+.*//' $(VENV)/freeze.txt; } > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt && touch $(STAMP)

clean: ## remove caches and results; runs/ and .venv stay
	rm -rf results build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . \( -path ./.git -o -path ./$(VENV) -o -path ./runs \) -prune -o \
	  \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv; runs/ stays
	rm -rf $(VENV)

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
