# `make book` and `make test` set up what they need in .venv; both are cheap to repeat.
#
# Every path here is relative, and commands run as `.venv/bin/python -m ...`, so that a folder
# with spaces in its name works.

PYTHON ?= python3
PROFILE := quick
DATA :=
# Set on the command line only, because a DATA in the environment may mean something else; recipes
# read both as shell variables, because a path may contain any character.
export PROFILE DATA

VENV := .venv
RUN := $(VENV)/bin/python
# a test that waits for ever ends its process; in a new one it would only wait again
WORKERS := -n 2 --max-worker-restart=0
CELLS := --line-length 72 book/*.ipynb  # a page cuts longer lines of code off
TIMED = begun=$$(date +%s); took() { s=$$(( $$(date +%s) - begun )); echo "$$1 $$((s / 60)) min $$((s % 60)) s"; }

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book test claims lint unit slow pages notebooks links constraints format clean

help: ## list the targets
	@echo "make book     [PROFILE=smoke|quick|colab|paper] [DATA=/path/to/ATLAS_R1.1] [PYTHON=python3.12]"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

book: $(VENV)/book.stamp ## set up, make the data, run the chapters, render _build/html/index.html
	@$(RUN) book/build.py --profile "$$PROFILE" --data "$$DATA"

test: $(VENV)/test.stamp ## set up and check: style, types, imports, tests, notebooks, wheel
	@$(TIMED); $(MAKE) --no-print-directory lint unit notebooks && took "Every check passed in"

claims: $(VENV)/test.stamp ## run the trainings of data/results/protocol.md that are missing (hours)
	@$(RUN) -m atlaslib claims --profile "$$PROFILE" --data "$$DATA" $(if $(DATA),,--out data/results)

lint: $(VENV)/test.stamp ## style, types and the import rule
	@echo "== ruff"; $(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff format --check $(CELLS)
	@echo "== mypy"; $(RUN) -m mypy
	@echo "== import-linter"; $(RUN) -c "from importlinter.cli import lint_imports_command as c; c()"

unit: $(VENV)/test.stamp ## the tests, in two processes
	@echo "== pytest"; $(RUN) -m pytest tests -m "not slow and not pages" $(WORKERS) --dist loadfile --durations=5

slow: $(VENV)/test.stamp ## the tests that take minutes
	@$(RUN) -m pytest tests -m slow

pages: $(VENV)/test.stamp ## every page of the rendered book in a browser, after make book
	@echo "== pytest tests/test_pages.py"; $(RUN) -m pytest tests/test_pages.py $(WORKERS) -q -rs

notebooks: $(VENV)/test.stamp ## the chapters' reference outputs, at the smoke profile, in two processes
	@echo "== pytest --nbval book"; $(RUN) -m pytest --nbval book $(WORKERS) --dist loadfile

links: $(VENV)/book.stamp ## make every link use the repository's address in _config.yml
	@$(RUN) book/links.py

format: $(VENV)/test.stamp ## let ruff fix the style
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff format $(CELLS)

constraints: ## update constraints.txt to what pip installs today
	@$(PYTHON) -m venv --clear _build/pins
	@_build/pins/bin/python -m pip install ".[book,test,bench]"
	@_build/pins/bin/python -m pip freeze --all --exclude pip --exclude atlaslib \
		| sed 's/+.*//' | grep -Eiv '^(nvidia|cuda|triton)' > _build/pins.txt
# packages that only another platform or Python needs keep their old pin
	@{ sed -n '/^#/p' constraints.txt; sed '/^#/d' constraints.txt | cat _build/pins.txt - \
		| awk -F== '!seen[tolower($$1)]++' | sort -f; } > _build/constraints.txt
	@mv _build/constraints.txt constraints.txt
	@rm -r _build/pins _build/pins.txt; git diff --stat constraints.txt

clean: ## remove the environment and the built book; data and finished runs stay
	@rm -rf $(VENV) _build build dist *.egg-info

# --- the environment: one stamp file per set of extras, newer than the files it depends on -------

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; for example: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "== making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "no venv module: on Debian and Ubuntu, apt install python3-venv"; exit 1; }

$(VENV)/book.stamp: pyproject.toml constraints.txt | $(RUN)
	@echo "== installing the library and what the book needs (minutes and gigabytes the first time)"
	@$(RUN) -m pip install -c constraints.txt -e ".[book]"
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(RUN)
	@echo "== installing the library and what the book and the checks need"
	@$(RUN) -m pip install -c constraints.txt -e ".[book,test]"
	@touch $(VENV)/book.stamp $@
