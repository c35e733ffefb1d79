# Two commands matter: `make demo` and `make test`. Each installs what it needs on its first run.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
INSTALLED_DEV = $(VENV)/.installed-dev
INSTALLED_DOCS = $(VENV)/.installed-docs
PIP = $(BIN)/python -m pip --disable-pip-version-check
# Two processes on the CPU. A GPU's memory belongs to one.
PYTEST_ARGS ?= $(if $(filter-out cpu,$(JAX_PLATFORMS)),,-n 2)

.DEFAULT_GOAL := help
.PHONY: help demo install test test-isa test-newest test-numeric test-wheel lint docs clean

help:
	@echo "make demo   install into $(VENV), then visualize every channel of conv3 of a shipped model"
	@echo "make test   install what tests need, then check style, types, layers and run the tests"
	@echo "make test-isa     the numeric tests as for processors without AVX-512, and without AVX"
	@echo "make test-newest  the numeric tests with another Python: PYTHON=python3.13"
	@echo "make test-wheel   build the wheel, install it afresh, and use it elsewhere: PYTHON=python3.12"
	@echo "make lint   the checks of make test without the tests"
	@echo "make docs   build the documentation, from the Markdown files and docstrings that are here"
	@echo "make clean  remove $(VENV) and caches; results under runs/ stay"
	@echo
	@echo "PYTHON=python3.12 make demo   installs with another interpreter (3.11 or newer)"
	@echo "BUILD.md tells how to use a GPU or a cluster, and how to train."

demo: $(INSTALLED)
	$(BIN)/python -m experiments.visualize --model=square-lesion --layer=conv3 --steps=128 --out=runs/demo

install: $(INSTALLED)

# On the CPU, unless the caller says otherwise: JAX_PLATFORMS=cuda make test
# The tests of a file stay in one process, since they share what was trained and compiled. The files
# come in the order of tests/conftest.py.
BY_FILE = --dist=loadfile --no-loadscope-reorder
test: lint
	JAX_PLATFORMS="$${JAX_PLATFORMS-cpu}" $(BIN)/python -m pytest $(BY_FILE) $(PYTEST_ARGS)

# What a release of JAX can change: how networks are traced, imported and compiled, and what an ascent
# and a training make of them.
NUMERIC_TESTS = tests/nn tests/importers/onnx tests/test_training.py tests/test_checkpoints.py \
  $(patsubst %,tests/importers/torch/test_%.py,capture programs weights) \
  tests/maximize/transforms/test_contract.py $(MAXIMIZE_TESTS) \
  $(patsubst %,tests/maximize/test_%.py,devices layer neuron_crop planning recipe_defaults rising variants)
# What a processor can change: the numbers of convolutions, poolings, transforms, ascents and
# trainings, against references. A test of numbers in another file belongs here, too.
ISA_TESTS = $(patsubst %,tests/nn/test_%.py,cnn fast ops pooling) $(MAXIMIZE_TESTS) \
  tests/importers/onnx/test_operators.py tests/test_training.py
MAXIMIZE_TESTS = $(patsubst %,tests/maximize/test_%.py,ascent objectives parameterizations \
  penalties reference strongest warps) $(patsubst %,tests/maximize/transforms/test_%.py,denoising geometry \
  intensity resizing smoothing switching) tests/evidence

test-numeric: $(INSTALLED_DEV)
	JAX_PLATFORMS="$${JAX_PLATFORMS-cpu}" $(BIN)/python -m pytest --numprocesses=2 $(BY_FILE) \
	  $(PYTEST_ARGS) $(NUMERIC_TESTS)

# XLA compiles as for such processors on any x86-64: as well as it can for the first, since the other
# tests have it compile quickly.
test-isa: $(INSTALLED_DEV)
	@set -e; for flags in "AVX2 --xla_backend_optimization_level=3" SSE4_2; do \
	  echo "As for a processor with at most $$flags:"; \
	  JAX_PLATFORMS=cpu XLA_FLAGS="$$XLA_FLAGS --xla_cpu_max_isa=$$flags" \
	    $(MAKE) --no-print-directory test-numeric NUMERIC_TESTS="$(ISA_TESTS)"; \
	done

# With an environment of its own for each interpreter, beside .venv.
test-newest:
	$(MAKE) --no-print-directory VENV=".venv-$(notdir $(PYTHON))" test-numeric

# What pip installs has to work without the clone: in an environment that has nothing else, from a
# directory that is none of ours.
WHEEL = build/wheel-$(notdir $(PYTHON))
test-wheel:
	rm -rf "$(WHEEL)" build/lib && mkdir -p "$(WHEEL)/elsewhere"
	"$(PYTHON)" -m venv "$(WHEEL)/env"
	"$(WHEEL)/env/bin/python" -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir "$(WHEEL)" .
	"$(WHEEL)/env/bin/python" -m pip --disable-pip-version-check install --quiet --no-compile "$(WHEEL)"/*.whl
	@test "$$(stat -c %s "$(WHEEL)"/*.whl)" -le 8388608 || { echo "The wheel is larger than 8 MB." >&2; exit 1; }
	cd "$(WHEEL)/elsewhere" && export JAX_PLATFORMS=cpu && bin=$(abspath $(WHEEL))/env/bin && \
	  $$bin/featvis && $$bin/featvis layers --model=square-lesion && \
	  $$bin/featvis visualize --model=square-lesion --layer=conv3 --channels=0:2 --steps=4 --out=run && \
	  $$bin/python -c "import featvis_jax as fv; fv.visualize('square-lesion', 'conv1', channels=[0], steps=2)" && \
	  test -f run/gallery/index.html

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Nothing is fetched while it builds, and a warning ends it: of a link that leads nowhere, for example.
docs: $(INSTALLED_DOCS)
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -c docs -b html --fail-on-warning --keep-going --quiet . build/docs
	@echo "Documentation: build/docs/index.html"

# A stamp is newer than what was installed from, so a second run installs nothing.
$(INSTALLED): $(BIN)/python requirements.txt pyproject.toml
	@echo "Installing featvis_jax into $(VENV); the first time takes a few minutes."
	$(PIP) install --quiet --requirement requirements.txt --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.txt
	@echo "Installing what tests and checks need into $(VENV)."
	$(PIP) install --quiet --requirement requirements-dev.txt
	@touch $@

$(INSTALLED_DOCS): $(INSTALLED) requirements-docs.txt
	@echo "Installing what builds the documentation into $(VENV)."
	$(PIP) install --quiet --requirement requirements-docs.txt
	@touch $@

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "No $(PYTHON) found. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "featvis_jax needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1)." >&2; \
	  echo "Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -m venv "$(VENV)" || { rm -f "$(BIN)/python"; \
	  echo "$(PYTHON) could not make a virtual environment." >&2; \
	  echo "On Debian and Ubuntu its parts come apart: apt install python3-venv" >&2; exit 1; }

clean:
	rm -rf "$(VENV)" .venv-python* build dist *.egg-info .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find experiments featvis_jax tests -name __pycache__ -type d -prune -exec rm -rf {} +
