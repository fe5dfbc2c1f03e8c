# make demo: the main job on embedded data.  make test: everything a change must pass.
# Each target makes its own environment in .venv when it is missing or pyproject.toml has changed.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint format bench clean

demo: $(READY)
	$(BIN)/refiner-cka analyze --model vit_ti=random --model resnet18=random --model resnet34=random \
		--data digits --image-size 64 --out results/demo

test: lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python tests/bench/bench_analysis.py
	$(BIN)/python tests/bench/bench_refiner.py
	$(BIN)/python tests/bench/bench_smoothing.py

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build results *.egg-info
