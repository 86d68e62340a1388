# Each target sets up .venv by itself: a machine needs Python 3.10 or newer and make.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin

PEERS := benchmarks/.venv

.PHONY: setup demo test check clients cluster peers clean

setup: $(READY)  ## the environment alone

demo: $(READY)  ## the main job: scenes -> tokenizer -> latents -> pipeline -> gallery
	$(RUN)/calotype demo

test: $(READY)  ## the whole suite, slow tests too
	$(RUN)/python -m pytest -q -n 2 --dist worksteal

check: $(READY)  ## lint, format, types
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/pyright

clients: $(READY)  ## trained folders in the hands of other people's programs; DIFFUSERS=a checkout of it
	$(RUN)/python benchmarks/clients.py $(if $(DIFFUSERS),--diffusers $(DIFFUSERS))

cluster: $(READY)  ## two hosts in network namespaces, one cut off and one killed; wants Linux's unshare and ip
	$(RUN)/python benchmarks/two_hosts.py

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "calotype needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install -q --constraint constraints.txt --editable ".[dev,lora,openmoji,offline,formats,remote,uses]"
	touch $(READY)

peers: $(PEERS)/.ready  ## what benchmarks measure beside, in an environment of its own

$(PEERS)/.ready: pyproject.toml constraints.txt benchmarks/peers.txt benchmarks/peers-alone.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q --constraint constraints.txt \
		--requirement benchmarks/peers.txt --editable ".[dev,lora,openmoji,offline,formats,remote,uses]"
	$(PEERS)/bin/python -m pip install -q --no-deps --requirement benchmarks/peers-alone.txt
	touch $(PEERS)/.ready

clean:
	rm -rf $(VENV) $(PEERS)
