# The commands of the house. They need git, make and Python 3.11 or newer; everything else goes into .venv.
#
#   make train                                          the default recipe, sinusoid_maml
#   make train ARGS="omniglot_protonet_5w1s seed=3"     any recipe, any change to it
#   make test    make test-all    make drills    make lint    make clean
#   make bench   make soak        make docs      ARGS=--help says what each takes
#
# pip obeys its own PIP_* variables, for example to take a CPU-only torch from another index.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: train test test-all drills lint clean bench soak docs

train: .venv/.installed
	$(BIN)/python -m jobs.train $(ARGS)

# A process for each core and one more, up to four: tests of clusters wait for other processes. A file stays in one: its
# fixtures train runs and start clusters.
PROCESSES = $(shell $(BIN)/python -c "import os; print(min((os.cpu_count() or 1) + 1, 4))")
SHARED = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
# Empty, whatever the caller's environment says: else each process of the suite compiles all modules anew, for 100 s.
test test-all: export PYTHONDONTWRITEBYTECODE =
test: .venv/.installed
	$(BIN)/python -m pytest -q $(SHARED)

test-all: .venv/.installed # also the slow tests, the full grid of the contract, and the tests of the benchmark
	$(BIN)/python -m pytest -q -m "not drill" $(SHARED)

drills: .venv/.installed # faults done to real clusters: minutes
	$(BIN)/python -m pytest -q -m drill

bench: .venv/.installed # tasks per second on this machine: minutes
	$(BIN)/python -m tests.bench $(ARGS)

soak: .venv/.installed # a run with a fault every few seconds, for ten minutes
	$(BIN)/python -m tests.soak $(ARGS)

docs: .venv/.installed # the pages of docs/ that are made from the code and the results
	$(BIN)/python -m docs.write $(ARGS)

lint: .venv/.installed
	$(BIN)/ruff check --output-format=concise pipeline jobs tests docs
	$(BIN)/ruff format --check pipeline jobs tests docs
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,text,control,serve,sweep]"
	@touch $@

clean: # what can be made again; never runs/, data/ or mlflow.db
	rm -rf .venv build dist metafleet.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pipeline jobs tests -type d -name __pycache__ -prune -exec rm -rf {} +
