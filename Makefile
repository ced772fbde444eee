# `make search` and `make test` need nothing but Python 3.12 or 3.11; see the README.
BIN := .venv/bin
# The first of these that runs, is 3.11 or 3.12 and can make a virtual environment; another: make PYTHON=/path/to/it
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do \
  $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
    >/dev/null 2>&1 && echo $$python && break; done)
IMAGES := $(wildcard ../shared/data/bsds500)
PHOTOGRAPHS := $(if $(IMAGES),--data $(IMAGES))
KODAK := $(if $(wildcard ../shared/data/kodak),--kodak ../shared/data/kodak)
GPU_PYTHON ?= python3

.PHONY: search test test-slow coverage lint docs audit ui bench bench-gpu gpu-search reproduce reproduce-gpu chaos soak stack screenshots starter lock smoke clean

# uv only speeds pip's work up; it installs exactly what the lock pins, hashes checked. Compiled once: where
# PYTHONDONTWRITEBYTECODE is set every process would do that again, which doubles what a search needs to start.
.venv: requirements.lock pyproject.toml
	@if [ -L .venv ]; then \
	  echo ".venv is a link to $$(readlink .venv), which others may use: it is not replaced; build it there" >&2; \
	  exit 1; \
	fi
	@if [ -z "$(PYTHON)" ]; then \
	  echo "lictune needs Python 3.11 or 3.12 with the module venv, and found neither." >&2; \
	  echo "Debian, Ubuntu: apt-get install python3.12-venv (or python3.11-venv); Fedora: dnf install python3.12;" >&2; \
	  echo "elsewhere: uv python install 3.12. Then again, or: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; \
	fi
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet uv==0.13.8
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch .venv

# A complete small search on whatever this machine has: about four minutes on two CPU cores. Three rates are the
# fewest that make a curve; two fresh seeds tell whether what it found was luck.
search: .venv
	$(BIN)/python -m search.run --model hyperprior --preset tiny --rates 1,3,5 --budget 12 --epochs 5 --steps-per-epoch 80 \
	  --confirm 1 --seeds 2 $(SEARCH)

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy lic search dashboards tests
	$(BIN)/lint-imports --no-cache

# Known vulnerabilities of the pinned packages; without a network it says that it could not look, and passes.
audit: .venv
	$(BIN)/python -m tests.audit

# Lint, types, contracts, and what a change needs, one whole search among it.
test: lint audit
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --durations 10

# The rest: two hosts, a browser, servers that come and go, fuzzing at full size.
test-slow: .venv
	$(BIN)/python -m pytest -m slow

# The documentation as a site, in build/site; warnings are errors.
docs: .venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "open build/site/index.html"

# What both suites together run of lic/ and search/, in all their processes; it fails below 90 %. Half an hour.
coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: .venv
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage run -m pytest -m slow
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report --skip-covered --sort=cover --fail-under=90

# Three trials of every supported model, and several at once on a device: minutes each.
smoke: .venv
	$(BIN)/python -m pytest -m smoke

# Faults in the middle of searches, minutes each; then sixty kills and twelve spoilt disks, most of an hour; then
# fifty-four signals, half an hour.
chaos: .venv
	$(BIN)/python -m pytest -m chaos
	$(BIN)/python -m tests.bench.kills
	$(BIN)/python -m tests.bench.signals
	$(BIN)/python -m tests.bench.signals --signals TERM --targets job

# Three hundred short trials: does anything grow?
soak: .venv
	$(BIN)/python -m tests.bench.soak

# The services of docker/compose.yaml, as far as they can be started without containers, and an object store.
stack: .venv
	$(BIN)/python -m pytest -m stack

# What is fast and by how much, beside the usual way, on a CPU: most of two hours, the last two most of that.
bench: .venv
	$(BIN)/python -m tests.bench.data $(PHOTOGRAPHS) $(KODAK)
	$(BIN)/python -m tests.bench.step $(PHOTOGRAPHS)
	$(BIN)/python -m tests.bench.decorrelation $(PHOTOGRAPHS)
	$(BIN)/python -m tests.bench.evaluation $(PHOTOGRAPHS) $(KODAK)
	$(BIN)/python -m tests.bench.parity $(PHOTOGRAPHS)
	$(BIN)/python -m tests.bench.memory
	$(BIN)/python -m tests.bench.plain_search $(PHOTOGRAPHS) $(KODAK)
	$(BIN)/python -m tests.bench.startup $(PHOTOGRAPHS) $(KODAK)
	$(BIN)/python -m tests.bench.fork $(PHOTOGRAPHS) $(KODAK)

# The same for a GPU, on a machine that need have no more than torch, compressai and this repository.
bench-gpu:
	$(GPU_PYTHON) -m tests.bench.data $(PHOTOGRAPHS) $(KODAK)
	$(GPU_PYTHON) -m tests.bench.step $(PHOTOGRAPHS)
	$(GPU_PYTHON) -m tests.bench.decorrelation $(PHOTOGRAPHS)
	$(GPU_PYTHON) -m tests.bench.evaluation $(PHOTOGRAPHS) $(KODAK)
	$(GPU_PYTHON) -m tests.bench.packing $(PHOTOGRAPHS)
	$(GPU_PYTHON) -m tests.bench.memory
	$(GPU_PYTHON) -m tests.bench.parity $(PHOTOGRAPHS)

# The archive for a GPU machine that has Python 3.12 and torch and no network, a quarter of an hour; it can be copied there
# with the checkout.
build/site.tar.xz: requirements.lock tests/bench/gpu_pack.py | .venv
	$(BIN)/python -m tests.bench.gpu_pack --out $@

# A whole search with Ray, Optuna and MLflow on such a machine, in eight minutes; it packs only where the archive is not there:
# make gpu-search GPU_PYTHON=python3.12
gpu-search:
	[ -f build/site.tar.xz ] || $(MAKE) build/site.tar.xz
	PYTHON=$(GPU_PYTHON) bash tests/bench/gpu_search.sh results/gpu-search build/site.tar.xz $(CARRIED)

# The evidence of docs/results.md, on two CPU cores: hours, in slices by REPRODUCE="--max-minutes 60".
reproduce: .venv
	$(BIN)/python -m search.reproduce --model hyperprior --fraction 0.025 --refine 0 --alphas z=1e-7,1e-5,1e-4,1e-3 \
	  $(PHOTOGRAPHS) $(KODAK) --state results/reproduction/hyperprior $(REPRODUCE)
	$(BIN)/python -m search.reproduce --model cheng --width 32 --batch 4 --patch 128 --fraction 0.02 --refine 0 \
	  --alphas 1e-9,1e-8 --alphas y=1e-9,1e-8,1e-7 --alphas z=1e-5,1e-3 $(PHOTOGRAPHS) $(KODAK) \
	  --state results/reproduction/cheng $(REPRODUCE)

# The paper's geometry and steps on a GPU, without the search's own packages, most valuable part first; it goes on
# where it was ended: make reproduce-gpu MINUTES=9
reproduce-gpu:
	bash tests/bench/reproduce_gpu.sh $(or $(MINUTES),100000) $(PHOTOGRAPHS) $(KODAK) $(REPRODUCE)

ui: .venv
	$(BIN)/python -m dashboards.open

# Pictures of a search for docs/: make screenshots SEARCH=results/NAME
screenshots: .venv
	$(BIN)/python -m tests.bench.screenshots $(SEARCH) docs

# The weights that the tiny preset and the reproduction start from, which can be given away as their images can.
STARTERS := $(wildcard ../shared/data/cid22/train)
starter: .venv
	$(BIN)/python -m lic.training.starter hyperprior --width 32 --latent-width 96 --optimizer soap $(if $(STARTERS),--data $(STARTERS))
	$(BIN)/python -m lic.training.starter cheng --width 32 --half $(if $(STARTERS),--data $(STARTERS))

# Pins the newest versions that pyproject.toml allows, for Python 3.11 and 3.12, with their hashes.
lock:
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --upgrade \
	  --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
