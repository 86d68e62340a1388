# Each target sets up .venv by itself: a machine needs Python 3.10 or newer and make.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin

.PHONY: demo test check clean

demo: $(READY)  ## the main job: scenes -> tokenizer -> latents -> pipeline -> gallery
	$(RUN)/calotype demo

test: $(READY)  ## the whole suite, slow tests too
	$(RUN)/python -m pytest -q -n 2 --dist worksteal

check: $(READY)  ## lint, format, types
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/pyright

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "calotype needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install -q --constraint constraints.txt --editable ".[dev,openmoji,offline]"
	touch $(READY)

clean:
	rm -rf $(VENV)
