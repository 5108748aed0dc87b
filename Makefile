# `make demo` and `make test` do all the set-up they need, once, in .venv.
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs/demo
# Settings for both trainings of the demo, such as DEMO="--training.epochs 1 --data.limit 500".
DEMO ?=

# Bytecode is kept, even where the environment says otherwise: tests start hundreds of Pythons, and each would compile the package.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-slow test-all gpu-check lint format bench docs gallery clean

demo: .venv/installed
	$(BIN)/anysize train quickstart --run $(RUNS)/mixed $(DEMO)
	$(BIN)/anysize train quickstart-fixed --run $(RUNS)/fixed $(DEMO)
	$(BIN)/anysize evaluate $(RUNS)/mixed
	$(BIN)/anysize evaluate $(RUNS)/fixed
	$(BIN)/anysize compare $(RUNS)/mixed $(RUNS)/fixed --out $(RUNS)/comparison.html

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test-slow: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m slow

test-all: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "not cuda"

gpu-check: .venv/installed
	PYTHONPATH=src $(BIN)/python tools/gpu_check.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed
	for file in benchmarks/*.py; do [ $$file = benchmarks/harness.py ] || $(BIN)/python $$file || exit 1; done

docs: .venv/docs-installed
	PYTHONPATH=src $(BIN)/python -m sphinx -b html --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

gallery: .venv/installed
	PYTHONPATH=src $(BIN)/python tools/make_gallery.py

.venv/docs-installed: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build runs
