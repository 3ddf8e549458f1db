# Every target works on a fresh clone: .venv is made and filled when what it should hold has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/gonbuild
ARGS ?=
# A shared store on S3, in the settings or the environment, needs its driver.
EXTRA := $(shell { echo "$$GONBUILD_REMOTE"; grep '^ *remote *=' pyproject.toml; } | grep -q 's3://' && echo s3)
# What is installed depends on the pinned set and on pyproject.toml above its tools, not on the settings below.
DEPENDENCIES := $(shell sed '/^\[tool\./,$$d' pyproject.toml | cat - constraints.txt | cksum | cut -d' ' -f1)$(EXTRA:%=-%)
READY := $(VENV)/ready-$(DEPENDENCIES)
READY_TEST := $(VENV)/ready-test-$(DEPENDENCIES)
COVERAGE := $(VENV)/coverage.json

.DEFAULT_GOAL := stories
.PHONY: stories plan check release why review report train eval try schema doctor test lint format check-all bench torture clean help

stories: $(READY) ## bring the packs up to date (ARGS="--refresh all" asks for new stories)
	@$(RUN) stories $(ARGS)

plan: $(READY) ## say what `make stories` would do, and why
	@$(RUN) plan $(ARGS)

check: $(READY) ## exit 1 if the packs are stale; needs no model
	@$(RUN) check $(ARGS)

release: $(READY) ## say what a release still wants: approvals, stale pins, the game's text box
	@$(RUN) check --release $(ARGS)

review: $(READY) ## decide which stories ship, key by key (ARGS=--web: in a browser)
	@$(RUN) review $(ARGS)

report: $(READY) ## write build/report/index.html: what was built and why, figures, reviews
	@$(RUN) report $(ARGS)

why: $(READY) ## tell a card's story: make why CARD=bao-ve-001
	@$(RUN) why $(CARD) $(ARGS)

train: $(READY) ## train the adapter, unless the cache holds it
	@$(RUN) train $(ARGS)

eval: $(READY) ## measure base and adapter on held-out cards
	@$(RUN) eval $(ARGS)

try: $(READY) ## print candidates: make try CARD="Tên thẻ: ... Loại: ... Hiệu ứng: ..."
	@$(RUN) try "$(CARD)" $(ARGS)

schema: $(READY) ## print the JSON Schema of a deck, for editors
	@$(RUN) schema $(ARGS)

doctor: $(READY) ## say what this machine can run
	@$(RUN) doctor $(ARGS)

# A run that names tests covers part of the code: it is neither measured nor held to the floors.
PART := $(filter tests/% -k% -m% --lf --ff,$(ARGS))
test: $(READY_TEST) ## run the tests and hold their coverage to its floors; ARGS="tests/test_bleu.py": some, unmeasured
ifneq ($(strip $(PART)),)
	@$(BIN)/pytest -q $(ARGS)
else
	@$(BIN)/pytest -q --cov=gonbuild --cov-branch --cov-report=json:$(COVERAGE) --cov-report=term:skip-covered $(ARGS)
	@$(BIN)/python tests/coverage_floors.py $(COVERAGE)
endif

lint: $(READY_TEST) ## format, lint and type checks, none of which changes a file
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(READY_TEST) ## put the code into the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

check-all: lint test check ## lint, tests, and that the packs are up to date

bench: $(READY_TEST) ## measure what the README claims; prints its table
	@$(BIN)/python tests/bench.py $(ARGS)

torture: $(READY_TEST) ## try to break it, at the full counts; prints its table
	@PYTHONPATH=tests $(BIN)/python -m torture $(ARGS)

clean: ## remove the virtual environment, the cache and the reports; packs stay
	rm -rf $(VENV) build/cache build/report .pytest_cache .mypy_cache .ruff_cache

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# torch first and by its exact version: some mirrors hold only its CPU build, and a range would take the newest of all.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gonbuild needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), a few minutes the first time" >&2
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.$(EXTRA:%=[%])'
	@touch $@

$(READY_TEST): $(READY)
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $@
