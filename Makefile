# One command runs the main job (`make train`), one passes the tests (`make test`). `make` alone lists the targets.

RECIPE ?= recipes/demo.yaml
SET ?=
WEIGHTS ?= runs/demo/latest/weights/best.safetensors
DATA ?= data/demo/annotations/instances_val.json
IMAGES ?= data/demo/images/val-0000.jpg
OUT ?= runs/detect
HOSTS ?= 2
BANDWIDTH ?= 100
BANDWIDTHS ?= 100,300,1000
STRATEGIES ?= all
FACTORS ?= all
RATIO ?= 10
KILLS ?= 5
BATCHES ?= 16,32,64,128
SEED ?= 1
SEEDS ?= 0,1,2
SIZE ?= 3072
TILE ?= 640
# For the run on whole images alone.
WHOLE ?= sharding.columns=2
BASE ?= HEAD

PYTHON := .venv/bin/python
CODE := yolo tests docs
RECIPES := $(shell find recipes -name '*.yaml' | sort)

.DEFAULT_GOAL := help
.PHONY: help setup setup-mpi train test test-fast test-long test-coverage same-bits check configs recipes eval detect lint format schema demo
.PHONY: docs bench bench-sharding bench-cluster bench-communication bench-factors bench-plan bench-batches bench-accuracy bench-tiling
.PHONY: accuracy-gate chaos

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'
	@echo
	@echo '  make train RECIPE=recipes/bccd.yaml SET="data.root=/path/to/bccd train.epochs=30"'

setup: .venv/ready ## make the environment with the command .venv/bin/yolo, once

PIP_INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check

.venv/ready: requirements.txt pyproject.toml
	python3.11 -m venv .venv || python3 -m venv .venv
	$(PIP_INSTALL) --requirement requirements.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

setup-mpi: setup ## also install MPI, for cluster.backend=mpi
	$(PIP_INSTALL) --no-deps --requirement requirements-mpi.txt

demo: setup ## draw the demo data set into data/demo, once
	@$(PYTHON) -m yolo.data.demo --root data/demo

train: demo ## train RECIPE (default: the demo) through the deepspeed launcher; SET="train.epochs=30" overrides
	@$(PYTHON) -m yolo train $(RECIPE) $(SET)

eval: setup ## average precision of WEIGHTS on DATA
	@$(PYTHON) -m yolo eval --weights $(WEIGHTS) --data $(DATA)

detect: setup ## draw what WEIGHTS detect in IMAGES
	@$(PYTHON) -m yolo detect --weights $(WEIGHTS) --out $(OUT) $(IMAGES)

check: setup ## say whether every recipe can work, without starting anything
	@$(PYTHON) -m yolo check $(RECIPES)

configs: setup ## write what is generated: ds_configs/, the schema for editors, the pages of recipes and keys, the measured AP
	@rm -rf ds_configs
	@$(PYTHON) -m yolo config --write ds_configs $(RECIPES)
	@$(PYTHON) -m yolo schema --json > recipes/schema.json
	@$(PYTHON) -m docs.generate

docs: setup ## build the documentation's site into results/site, offline; a warning is an error
	@$(PYTHON) -m sphinx --builder html --fail-on-warning --keep-going --quiet docs results/site
	@echo results/site/index.html

recipes: setup ## list the recipes, one line each
	@$(PYTHON) -m yolo recipes

schema: setup ## print the reference of all recipe keys
	@$(PYTHON) -m yolo schema

bench-cluster: demo ## train RECIPE briefly on HOSTS emulated hosts with links of BANDWIDTH Mbit/s (as root)
	@$(PYTHON) -m yolo.bench --hosts $(HOSTS) --bandwidth $(BANDWIDTH) $(RECIPE) $(SET)

bench-communication: HOSTS = 2,4
bench-communication: setup ## every strategy at several BANDWIDTHS, on emulated clusters of HOSTS (as root); STRATEGIES=zero0,ddp for some
	@$(PYTHON) -m yolo.bench.communication --hosts $(HOSTS) --bandwidths $(BANDWIDTHS) --strategies $(STRATEGIES) --ratio $(RATIO)

bench-factors: setup ## what each factor of communication costs: protocol, bandwidth, size, mode, data, model (as root); FACTORS=protocol for some
	@$(PYTHON) -m yolo.bench.factors --factors $(FACTORS)

bench-plan: HOSTS = 2,3,4
bench-plan: CALIBRATE = 2:100,2:1000,4:100,4:1000
bench-plan: setup ## is the planner right? calibrate, predict and measure on emulated clusters of HOSTS (as root); CALIBRATE=2:100 for some cells
	@$(PYTHON) -m yolo.bench.plan --hosts $(HOSTS) --bandwidths $(BANDWIDTHS) --calibrate $(CALIBRATE)

bench-sharding: setup ## sharding by sample, by feature and by both: predicted and measured on emulated hosts (as root)
	@$(PYTHON) -m yolo.bench.sharding --hosts 4 --bandwidths 100,1000

bench: demo ## how fast steps, loader, evaluation and runs of RECIPE are, against a plain trainer
	@$(PYTHON) -m yolo.bench.speed $(RECIPE) $(SET)

bench-batches: setup ## does AP stay as the global batch grows? RECIPE at each of BATCHES
	@$(PYTHON) -m yolo.bench.batch_scaling --batches $(BATCHES) $(RECIPE) $(SET)

bench-accuracy: demo ## the AP that every strategy keeps, on RECIPE with SEEDS; stopped, the same command resumes
	@$(PYTHON) -m yolo.bench.accuracy --base $(RECIPE) --strategies $(STRATEGIES) --seeds $(SEEDS) $(SET)

bench-tiling: setup ## AP of large and small objects: trained on whole images of SIZE pixels, on tiles of TILE, on images shrunk to TILE
	@$(PYTHON) -m yolo.bench.tiling --size $(SIZE) --tile $(TILE) $(WHOLE:%=--whole %) $(SET)

# Four epochs from the demo's weights without their head: long enough to learn it again, and short enough for CI.
accuracy-gate: ## after `make train`: does every strategy teach the demo's network its head again, as the plain run does?
	@rm -rf results/gate
	@$(PYTHON) -m yolo.bench.accuracy --seeds 0 --within 0.12 --out results/gate --strategies $(STRATEGIES) \
		--backbone runs/demo/latest/weights/best.safetensors train.epochs=4 evaluation.every_epochs=4 $(SET)

chaos: setup ## what a run survives: KILLS random kills, cut links, a full disk, NaN, on emulated hosts (as root)
	@$(PYTHON) -m yolo.bench.chaos --kills $(KILLS) --seed $(SEED)

lint: setup ## format, lint, types and floors, as CI checks them
	.venv/bin/ruff format --check $(CODE)
	.venv/bin/ruff check $(CODE)
	.venv/bin/mypy
	.venv/bin/lint-imports

format: setup ## put the code into its format
	.venv/bin/ruff format $(CODE)
	.venv/bin/ruff check --fix $(CODE)

# What these measure wants the machine to itself.
ALONE := $(addprefix tests/,bench/test_chaos.py calibration/test_calibrate.py emulation/test_cluster.py preflight/test_cluster_check.py)
PYTEST := -m pytest
# One more than cores are: tests that wait for a link or a timeout leave theirs to others.
WORKERS := $(shell expr $$(nproc) + 1)
TOGETHER = OMP_NUM_THREADS=1 $(PYTHON) $(PYTEST) --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: lint ## all that CI runs
	$(TOGETHER) $(ALONE:%=--ignore=%) tests
	$(PYTHON) $(PYTEST) $(ALONE)

test-fast: setup ## what to run while working: no launch, no training
	$(TOGETHER) -m "not slow" tests

test-long: test ## the same and the volume: 520 random recipes, 100 clean runs, all fuzzing, 50 kills, the planner's cells
	YOLO_RANDOM_RECIPES=520 YOLO_CLEAN_RUNS=100 $(PYTHON) $(PYTEST) -s tests/recipe/rules/against_deepspeed/test_random_recipes.py tests/training/resilience/test_anomaly_guard.py tests/fuzz
	$(MAKE) chaos KILLS=50
	$(MAKE) bench-plan

test-coverage: setup ## the lines of yolo/ that `make test` runs, subprocesses included
	rm -f .coverage*
	$(MAKE) test PYTEST="-m coverage run -m pytest"
	$(PYTHON) -m coverage combine --quiet
	$(PYTHON) -m coverage report

same-bits: setup ## does this tree train to the bits of the commit BASE? Short runs under each exchange and optimizer
	@$(PYTHON) tests/same_bits.py --base $(BASE)
