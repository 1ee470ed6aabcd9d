# Every target makes what it needs: nothing is assumed but make and Python 3.10 or newer.
PYTHON ?= python3
VENV   ?= .venv
BROKER ?= auto
SERVE  ?=
# How long make fuzz runs.
SECONDS ?= 300
# Models and data for the compiler's benchmarks.
DATA   ?= ../shared/data
# Most tests wait for real processes, so more jobs than cores gain time.
JOBS   ?= 4
TORCH      ?= torch==2.13.0
TORCH_VENV ?= .venv-torch
KERAS      ?= tensorflow-cpu==2.21.0
KERAS_VENV ?= .venv-keras
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help demo demo-mosquitto demo-embedded test test-device breaks test-export test-export-keras fuzz check bench deb install clean

help:
	@echo "make demo [BROKER=auto|mosquitto|embedded] [SERVE=1]   the whole journey, under two minutes"
	@echo "make test                                              every test (installs Debian packages where it may)"
	@echo "make test-device                                       emulated boards, power cuts, kills, systemd (installs qemu where it may)"
	@echo "make test-export                                       the export lines for PyTorch (installs it: TORCH=torch==2.13.0)"
	@echo "make test-export-keras                                 the export lines for Keras and TensorFlow (KERAS=tensorflow-cpu==2.21.0)"
	@echo "make breaks                                            one promise at a time taken out: the suite must notice (six minutes)"
	@echo "make fuzz [SECONDS=300]                                damaged models and data against the compiler's readers"
	@echo "make check                                             lint, types, layers, schemas, docs"
	@echo "make bench                                             the figures, beside their peers"
	@echo "make deb [ARCH=arm64]                                  the agent as a Debian package, in dist/"
	@echo "make clean                                             remove what these made"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "wherry needs Python 3.10 or newer, $(PYTHON) is older; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing wherry into $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m examples.demo --broker $(BROKER) $(if $(SERVE),--serve)

# The demo on one broker, with files of its own, so that both may run at a time.
demo-mosquitto demo-embedded: demo-%: $(STAMP)
	$(BIN)/python -m examples.demo --broker $* --out demo-out/$* --report demo-out/$*.json

# A file is one worker's, in the order of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	sh tests/debian_packages.sh
	$(PYTEST)

test-device: $(STAMP)
	sh tests/device/debian_packages.sh
	$(PYTEST) -m device -rP tests/device

breaks: $(STAMP)
	$(BIN)/python tests/breaks.py

fuzz: $(STAMP)
	$(BIN)/python -m tests.compiler.fuzz --deep --seconds $(SECONDS)

# PyTorch is of gigabytes, so it has an environment of its own, and the tests do not ask for it.
test-export: $(STAMP)
	@[ -x "$(TORCH_VENV)/bin/python" ] || { echo "installing $(TORCH) into $(TORCH_VENV) (once; minutes)"; \
	  $(PYTHON) -m venv $(TORCH_VENV) && \
	  $(TORCH_VENV)/bin/pip install --quiet --disable-pip-version-check $(TORCH) onnx onnxscript numpy; }
	WHERRY_TORCH_PYTHON=$(abspath $(TORCH_VENV))/bin/python $(BIN)/python -m pytest -m torch tests/compiler/test_export.py

test-export-keras: $(STAMP)
	@[ -x "$(KERAS_VENV)/bin/python" ] || { echo "installing $(KERAS) into $(KERAS_VENV) (once; minutes)"; \
	  $(PYTHON) -m venv $(KERAS_VENV) && \
	  $(KERAS_VENV)/bin/pip install --quiet --disable-pip-version-check $(KERAS) tf2onnx; }
	WHERRY_TENSORFLOW_PYTHON=$(abspath $(KERAS_VENV))/bin/python $(BIN)/python -m pytest -m tensorflow tests/compiler/test_export.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/python docs/protocols/generate_schemas.py --check
	$(BIN)/python docs/check.py

bench: $(STAMP)
	$(BIN)/python benchmarks/agent_overhead.py
	PYTHONPATH=. $(BIN)/python benchmarks/agent_memory.py
	$(BIN)/python benchmarks/delta.py
	$(BIN)/python benchmarks/transfer.py
	@if [ -d "$(DATA)" ]; then \
	  $(BIN)/python benchmarks/quantize.py --data "$(DATA)" && $(BIN)/python benchmarks/prune.py --data "$(DATA)"; \
	else \
	  echo "left out: quantize.py and prune.py, there are no models in $(DATA); make bench DATA=DIR"; \
	fi

deb: $(STAMP)
	$(BIN)/python packaging/deb/build.py --arch $(or $(ARCH),arm64)

clean:
	rm -rf $(VENV) demo-out demo-report.json build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
