# make demo: the main job on embedded data and networks.  make test: everything a change must pass.
# make test-floor: the tests of the package with the lowest versions that pyproject.toml allows.
# make test-all: that of make test, and all model families where make test tries a sample; the site and the distribution.
# make docs: build the site of the documentation in build/docs/site.
# make bench: what an analysis costs, beside other packages (19 minutes on slow cores).
# make bench-parts: where it goes: many layers and models, loading, products, measures, Refiner's attention, saving
# (19 there).
# make bench-gpu: what an analysis costs on a GPU, in one table to paste into an issue.
# make comparison: what other packages that compute CKA print of the same features (docs/comparison.md).
# make tested-models: analyse every network of the zoo and write docs/tested-models.md.
# make simulate: how often intervals hold what is true, and p-values against permutations.
# make stress: kill runs of one process and of three at random moments, resume each, and compare.
# make fuzz: read 10,000 damaged and crafted results, checkpoints and images, each under limits.
# make weights: train the embedded networks again.  make replicates: train three seeds of each, and compare the
# recipes with errors over trainings.  make matching: train eight small networks, and count how often each index
# finds the matching layer (docs/which-index.md).  make notebooks: run notebooks 1 to 4 and store what they show.
# make gallery: draw the pictures of docs/gallery.md.
# Each target makes its own environment in .venv (test-floor in .venv-floor) when it is missing or pyproject.toml has
# changed.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
FLOOR := .venv-floor
ROOMS := analysis cli images measures plots refiner report results subjects training
# As many processes as cores; each takes one (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

SEED ?= 0
REPLICATES ?= results/replicates

.PHONY: demo docs test test-floor test-all lint format bench bench-parts bench-gpu comparison tested-models simulate stress fuzz weights replicates matching \
	gallery notebooks clean

demo: $(READY)
	$(BIN)/refiner-cka analyze --model vit_nano --model deit_nano --model resnet_nano --model refiner_nano \
		--data digits --smoothing all --attention --out results/demo

docs: .venv/with-docs
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/docs/read . build/docs/site
	@echo build/docs/site/index.html

test: lint
	$(PYTEST)

# Of the package alone: documentation, notebooks, benchmarks, simulations and the wheel are made with the newest versions.
# What old packages find deprecated in newer ones that they need is not ours.
test-floor: $(FLOOR)/ready
	$(FLOOR)/bin/python -m pytest --numprocesses auto --dist worksteal -W default::DeprecationWarning $(ROOMS:%=tests/%)

test-all: lint .venv/with-docs .venv/with-release
	$(PYTEST) -m "whole or not whole"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/with-comparison
	$(BIN)/python tests/bench/bench_analysis.py --quick

bench-parts: $(READY)
	$(BIN)/python tests/bench/bench_rows.py
	$(BIN)/python tests/bench/bench_loading.py --rounds 3
	$(BIN)/python tests/bench/bench_models.py
	$(BIN)/python tests/bench/bench_profile.py
	$(BIN)/python tests/bench/bench_smoothing.py --pairs 3
	$(BIN)/python tests/bench/bench_refiner.py --quick
	$(BIN)/python tests/bench/bench_saving.py

bench-gpu: $(READY)
	$(BIN)/python tests/bench/bench_gpu.py

comparison: .venv/with-comparison
	$(BIN)/python tests/bench/bench_accuracy.py

tested-models: $(READY)
	$(BIN)/python tests/tested_models.py

weights: $(READY)
	SEED=$(SEED) WEIGHTS=results/weights/seed$(SEED) $(BIN)/ipython --no-banner notebooks/5_training.ipynb

simulate: $(READY)
	$(BIN)/python -m tests.simulation

stress: $(READY)
	$(BIN)/python tests/stress/stress.py

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz

replicates: $(READY)
	$(BIN)/python docs/replicates.py $(REPLICATES)
	$(BIN)/refiner-cka analyze --data digits-test --batch-size 32 --out $(REPLICATES)/analysis --overwrite \
		--model 'vit_nano=$(REPLICATES)/seed*/vit_nano.safetensors,group=ViT' \
		--model 'deit_nano=$(REPLICATES)/seed*/deit_nano.safetensors,group=DeiT' \
		--model 'resnet_nano=$(REPLICATES)/seed*/resnet_nano.safetensors,group=ResNet' \
		--model 'refiner_nano=$(REPLICATES)/seed*/refiner_nano.safetensors,group=Refiner'

gallery: $(READY)
	$(BIN)/python -m docs.gallery

matching: $(READY)
	$(BIN)/python docs/matching.py results/matching

notebooks: $(READY)
	for each in 1_first_look 2_the_papers_figure 3_your_own 4_over_smoothing; do \
		$(BIN)/jupyter execute --inplace notebooks/$$each.ipynb || exit 1; done

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

# uv finds versions of the other packages that go with these in seconds.
$(FLOOR)/ready: pyproject.toml
	$(PYTHON) -m venv --clear $(FLOOR)
	sed -n '/^dependencies/,/^]/s/^ *"\([^">]*\)>=\([^"]*\)".*/\1==\2/p' pyproject.toml > $(FLOOR)/lowest.txt
	$(FLOOR)/bin/python -m pip install --quiet uv
	$(FLOOR)/bin/uv pip install --quiet --python $(FLOOR)/bin/python --constraint $(FLOOR)/lowest.txt --editable '.[test]'
	touch $@

# What pyproject.toml lists as optional, beside what the tests need.
.venv/with-%: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf .venv $(FLOOR) build results docs/reference *.egg-info
