# make demo    plan Llama-3.1-70B on 8 H200 for a trace of real chat traffic, and write the launch files
# make test    install what the tests need into a virtual environment, then run every check
# make test-engines    run agent plans on real engines on loopback, without a GPU (1.3 GB once)
# make bench   time the planner
# make test-aiconfigurator   hold the costs taken from AIConfigurator against its packages (700 MB once)
# make calculon   price training plans as Calculon does and compare with its own search (about 4 CPU-minutes)
# make test-backends   hold exports against the frameworks' own parsers and schemas (4 GB once, Python 3.11)
#
# PYTHON picks the interpreter (3.11 or newer), VENV the folder of the virtual environment, JOBS the
# number of test processes.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
JOBS ?= 2
DEMO ?= demo-out

BIN := $(VENV)/bin
# pip of this interpreter installs into the environment, so that the environment needs no pip of its own.
PIP := $(PYTHON) -m pip --python $(BIN)/python --disable-pip-version-check
INPUTS := pyproject.toml requirements.lock

.PHONY: demo test test-torch test-backends test-engines test-aiconfigurator calculon lint bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@rm -rf $(DEMO)
	@mkdir -p $(DEMO)
	$(BIN)/newel plan examples/01_chat_70b/spec.yaml -o $(DEMO)/plan.json
	$(BIN)/newel verify $(DEMO)/plan.json --quiet
	$(BIN)/newel export $(DEMO)/plan.json --to vllm -o $(DEMO)/launch
	@echo
	@echo "plan: $(DEMO)/plan.json   launch files: $(DEMO)/launch/   next: $(BIN)/newel explain $(DEMO)/plan.json"

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -n $(JOBS)

test-engines: $(VENV)/.installed-dev
	tests/engines_lane/run.sh .venv-engines $(BIN)/python

test-backends:
	tests/backends_lane/run.sh .venv-vllm

test-aiconfigurator:
	tests/aiconfigurator_lane/run.sh .venv-aiconfigurator

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# The engine's own interpreter, with torch 2.13: make test-torch NEWEL_TORCH_PYTHON=/path/to/python
test-torch: $(VENV)/.installed-dev
	@test -n "$(NEWEL_TORCH_PYTHON)" || { echo "Name an interpreter with torch: NEWEL_TORCH_PYTHON=..."; exit 1; }
	NEWEL_TORCH_PYTHON=$(NEWEL_TORCH_PYTHON) $(BIN)/python -m pytest -s tests/backends/test_torch_pipelining.py

calculon: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks.calculon_rival

bench: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/benchmarks -p no:cacheprovider --benchmark-only -o python_files='bench_*.py'

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.installed: $(VENV)/bin/python $(INPUTS)
	$(PIP) install --quiet --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python $(INPUTS)
	$(PIP) install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(DEMO) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
