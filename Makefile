# What to type. `make` alone prints the list. Without make: see README.md, "Without make".
#
#   CHAPTER=06   one chapter only (test, execute, results)
#   SCALE=gpu    the larger models (execute, results)

VENV   := .venv
PYTHON := $(VENV)/bin/python
READY  := $(VENV)/.ready
SITE   := _build/html
export CHAPTER SCALE ROWS

# the first Python of a version that the pinned packages were tried with (the names alone prove nothing: ask each)
FOUND_PYTHON = $(shell for name in python3 python3.13 python3.12 python3.11 python3.10 python; do \
  $$name -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && { command -v $$name; break; }; done)
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))
export CHROMIUM

# CHAPTER=06 narrows the tests to book/06_<name>.ipynb, its page, tests/test_<name>.py, tests/test_experiments_<name>.py and the examples in mmtutor/<name>.py
CHAPTER_FILE = $(firstword $(wildcard book/$(CHAPTER)_*.ipynb))
CHAPTER_NAME = $(patsubst book/$(CHAPTER)_%.ipynb,%,$(CHAPTER_FILE))
TESTS = $(if $(CHAPTER),$(wildcard tests/test_$(CHAPTER_NAME).py tests/test_experiments_$(CHAPTER_NAME).py mmtutor/$(CHAPTER_NAME).py) tests/test_book.py tests/browser/test_site.py)

.DEFAULT_GOAL := help
.PHONY: help setup book test check lab execute results bench clean chapter chromium

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## create .venv and install everything into it (the other targets do this when needed)

$(READY): requirements.txt pyproject.toml
	@test -n "$(FOUND_PYTHON)" || { echo "No Python from 3.10 to 3.13 found. Install one (for example: apt install python3 python3-venv)."; exit 1; }
	@echo "Setting up $(VENV) with $(FOUND_PYTHON) (a few minutes the first time)"
	@$(PYTHON) -c '' 2>/dev/null || $(FOUND_PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "Python could not create a virtual environment (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(READY)

book: $(READY) ## build the site from the committed outputs into _build/html (about a minute)
	@echo "Building the site"
	@$(VENV)/bin/jupyter-book build -W -n --keep-going --quiet . >/dev/null || { rm -rf _build/.doctrees; \
	  echo "The site was not built: see the warnings above."; exit 1; }
	@echo "The site is in $(SITE). Open $(SITE)/index.html in a browser, or serve it:"
	@echo "  $(PYTHON) -m http.server --directory $(SITE)"

test: chromium chapter book ## everything: unit tests, every chapter run afresh, the site and JupyterLab in a browser
	$(PYTHON) -m pytest -n 2 --dist loadfile $(TESTS)

check: $(READY) ## the quick part of the tests: lint and unit tests, a few minutes
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pytest -n 2 --dist loadfile --ignore tests/browser --ignore tests/test_book.py --ignore-glob "tests/test_experiments_*.py"

lab: $(READY) ## open JupyterLab on the chapters
	$(VENV)/bin/jupyter lab --notebook-dir=book

execute: $(READY) ## run the chapters whose outputs are stale (CHAPTER=06 for one, SCALE=gpu)
	$(PYTHON) -m tools.execute

results: $(READY) ## run a chapter's models and baselines over five seeds into results/ (CHAPTER=06, SCALE=gpu)
	$(PYTHON) -m tools.sweep

bench: book ## speed, memory and weight beside other libraries, written to book/bench.md (about ten minutes)
	$(PYTHON) -m tools.bench

clean: ## remove what was built (not .venv: remove that folder by hand)
	rm -rf _build dist build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

chapter:
	@test -z "$(CHAPTER)" || test -n "$(CHAPTER_FILE)" || { \
	  echo "CHAPTER=$(CHAPTER): no such chapter. There are:" $(notdir $(wildcard book/[0-9]*.ipynb)); exit 1; }

chromium:
	@test -n "$(CHROMIUM)" || { echo "The site is tested in a real browser, and no Chromium was found."; \
	  echo "Install one (Debian: apt install chromium) or name yours: make test CHROMIUM=/path/to/chrome"; \
	  echo '(on a Mac: CHROMIUM="/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")'; exit 1; }
