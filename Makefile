# The same commands for people and for CI. Needs only Python 3.11+ (with venv and pip) and make.
#   make setup   the environment, in .venv (or VENV=/path)      make demo   the main job, in minutes
#   make test    everything CI runs                             make help   all targets

VENV    ?= .venv
PYTHON  ?= python3
WORKERS ?= 2
OUT     ?= netwright-demo

BIN   := $(VENV)/bin
STAMP := $(VENV)/.netwright-setup
CODE  := src tests benchmarks docs

# One thread a process: two single-threaded test workers beat one process with two threads.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0
PYTEST    = $(TEST_ENV) $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup lint check data test slow demo docs evidence bench format clean

help: ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(STAMP) ## Make the environment $(VENV) from constraints.txt (does nothing when it is up to date).

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Netwright needs Python 3.11 or newer; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

lint: $(STAMP) ## Format check, lint, types, floors.
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## Lint and the unit tests only (no data, no recipes): for every save.
	$(PYTEST) -n $(WORKERS) -m "not slow and not recipe and not data"

data: $(STAMP) ## Fetch the small data sets that the tests use.
	$(BIN)/netwright data fetch --all-small

test: lint data ## Everything CI runs: lint, types, floors, data, all tests that are not slow.
	$(PYTEST) -n $(WORKERS) -m "not slow"

slow: lint data ## The tests that take minutes (kill tests, the zoo, full recipes).
	$(PYTEST) -m slow

demo: $(STAMP) ## The main job on embedded data: a front of measured networks and a report.
	$(BIN)/netwright shape --trials 28 --out $(OUT)
	@echo "The report is $(abspath $(OUT))/report.html"

docs: $(STAMP) ## Build the documentation into site/ (strict: a broken link is an error).
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is $(CURDIR)/site/index.html"

evidence: data ## Reproduce every implemented paper in full and write evidence/.
	@slugs=$$($(BIN)/python docs/papers_page.py) || exit 1; \
	for slug in $$slugs; do $(BIN)/netwright reproduce $$slug --out evidence || exit 1; done

bench: $(STAMP) ## Run the benchmarks (they time things, so never as part of the tests).
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[bench]'
	@for script in benchmarks/*.py; do echo "== $$script"; $(TEST_ENV) $(BIN)/python $$script || exit 1; done

format: $(STAMP) ## Format the code and mend what ruff can mend.
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

clean: ## Remove what the targets made, except the environment.
	rm -rf site dist $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find src tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
