# Targets for people; `make` alone lists them. Everything that is installed goes into .venv.
#   make demo ARGS="seed=3"                       more arguments for run.py, for pytest in test and test-all
#   make setup PYTHON=python3.12                  another interpreter (before .venv exists)
#   make setup EXTRAS=dev,popgym,slurm,mikasa     other extras of pyproject.toml
PYTHON ?= python3
EXTRAS ?= dev,popgym,slurm
ARGS ?=
# How many times as many repetitions as the fifteen minutes of test-faults allow.
TRIES ?= 1
# A worker per core, four at most: each one imports torch.
PYTEST ?= $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

VENV := .venv
PY := $(VENV)/bin/python
comma := ,
STAMP := $(VENV)/.setup-$(subst $(comma),-,$(EXTRAS))

.DEFAULT_GOAL := help
.PHONY: setup setup-mikasa demo test test-slow test-faults test-slurm test-mikasa test-gpu test-all lint format bench docs clean help
.DELETE_ON_ERROR:

setup: $(STAMP)  ## create .venv and install, by the versions of constraints.txt

# The suite's own pins are too old to install by. ManiSkill needs a Vulkan driver even where nothing is rendered: that of a
# GPU, or Mesa's for the CPU, which must be 25 or newer (Debian 12 has it in its backports).
setup-mikasa: setup  ## the robots as well: ManiSkill, MIKASA-Robo and, as root, a Vulkan driver for machines without a GPU
	$(PY) -m pip install -c constraints.txt -e '.[platform,$(EXTRAS),mikasa]'
	$(PY) -m pip install --no-deps mikasa-robo-suite==1.0.0
	@if ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json >/dev/null 2>&1; then echo "a Vulkan driver is installed"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then sh envs/vulkan.sh; \
	else echo "no Vulkan driver: install that of your GPU, or as root libvulkan1 and mesa-vulkan-drivers of Mesa 25 or newer" >&2; exit 1; fi

demo: setup  ## the main job: collect T-Maze, train ELMUR, act in corridors of 9 to 9600 steps
	$(PY) run.py env=tmaze model=elmur $(ARGS)

test: setup  ## the tests that take seconds
	$(PYTEST) $(ARGS)

test-all: setup  ## every test that there is
	$(PYTEST) -m "" $(ARGS)

test-slow: setup  ## the tests that take minutes
	$(PYTEST) -m slow $(ARGS)

test-faults: setup  ## processes killed, files damaged, disks full on purpose; TRIES=5 for more repetitions
	ELMUR_TRIES=$(TRIES) $(PYTEST) -m faults tests/faults tests/ddp $(ARGS)

test-gpu: setup  ## the tests that need a GPU; skipped without one
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES:-0} $(PY) -m pytest -m gpu tests/gpu $(ARGS)

test-mikasa: setup-mikasa  ## the robots, rendered on the CPU where there is no GPU
	$(PYTEST) -m mikasa tests/envs tests/test_cli_mikasa.py $(ARGS)

test-slurm: setup  ## sweeps and several nodes on a SLURM that is brought up for it (Linux, as root)
	@[ "$$(id -u)" = 0 ] || { echo "a SLURM of one's own can only be brought up by root" >&2; exit 1; }
	@for program in slurmctld slurmd srun munged; do command -v $$program >/dev/null || { echo "$$program not found: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge" >&2; exit 1; }; done
	$(PY) -m pytest -m slurm tests/slurm $(ARGS)

lint: setup  ## ruff, its format, and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup  ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: setup  ## speed of training, acting and data on this machine
	$(PY) run.py stage=benchmark $(ARGS)

docs: setup  ## the site of docs/, in outputs/site/index.html; it opens from disk
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "open outputs/site/index.html"

clean:  ## remove .venv and caches; outputs/ stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# pip is the last thing that venv makes, so an interrupted venv is made again.
$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: 3.11 or newer is needed; name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch on its own first: its version then stands before anything that depends on it is resolved.
# The stamp comes last, so a failed install is tried again and a finished one is not.
$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PY) -m pip install -c constraints.txt torch
	$(PY) -m pip install -c constraints.txt -e '.[platform,$(EXTRAS)]'
	@touch $@
