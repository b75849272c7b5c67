# Everything happens in .venv; `make demo` on a fresh machine needs only Python 3.11 or later and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .venv-tools
# Where torch comes from; empty: the package index. With TORCH_INDEX=URL torch comes from that index (e.g. one of CPU builds)
TORCH_INDEX ?=
STAMP := $(VENV)/.installed

.PHONY: setup locked lock matrix load servers triton demo demo-seeds test test-search test-ray test-others lint fuzz drills bench sbom audit
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or later is needed, this is {sys.version.split()[0]}; name another: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch goes first, so that a build chosen by TORCH_INDEX is there before anything else asks for torch
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# the same set, each file by its sha256 (requirements.lock), else an error. torch alone comes by its version: it has one
# build per platform and index. What comes as source is built with the setuptools of the lock
locked: | $(BIN)/python
	awk '/^setuptools==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.lock > $(VENV)/setuptools.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r $(VENV)/setuptools.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --no-build-isolation -r requirements.lock
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $(STAMP)

demo: setup
	$(BIN)/python -m pipelines.demo

demo-seeds: setup
	$(BIN)/python -m pipelines.demo --seeds 0 1 2

# tests on Ray and of servers wait much, so three groups run side by side, of about equal time; each line of output says whose it is
SEARCH_TESTS := tests/ray/test_compare.py tests/ray/test_sweep.py tests/ray/test_drills.py
NODES_TESTS := tests/ray/test_nodes.py tests/ray/test_doctor.py tests/ray/test_orphans.py
# several processes of them share few cores, and nothing may wait for a model hub
test fuzz: export OMP_NUM_THREADS ?= 1
test fuzz: export HF_HUB_OFFLINE ?= 1
test fuzz: export HF_DATASETS_OFFLINE ?= 1
test: setup
	@$(MAKE) --no-print-directory --keep-going --jobs=3 test-search test-ray test-others

test-search: TESTS := $(SEARCH_TESTS) tests/tracking/
test-ray: TESTS := tests/ray $(addprefix --ignore=,$(SEARCH_TESTS) $(NODES_TESTS))
test-others: TESTS := $(filter-out tests/ray/ tests/tracking/ tests/__pycache__/,$(wildcard tests/*/)) $(NODES_TESTS)
test-search test-ray test-others:
	@bash -o pipefail -c '$(BIN)/python -m pytest $(TESTS) 2>&1 | while IFS= read -r line; do printf "%s\n" "$@: $$line"; done'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy cpl_ray pipelines tests benchmarks

# generated bad input, more than 10,000 cases; prints what became of them
fuzz: setup
	CPL_FUZZ_CASES=2000 $(BIN)/python -m pytest -q -s tests/fuzz --timeout 1800

# blows to every kind of process, storage, clock and tracking server in the whole job; minutes each (docs/operations.md)
drills: setup
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m tests.drills

# fresh environments with the lowest and the newest versions that pyproject.toml allows, some tests in each (3 GB each)
TORCH ?=
matrix: setup
	$(BIN)/python -m tests.matrix $(if $(TORCH),--torch $(TORCH)) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

# many writers on one store, 10,000 items, three minutes of training again and again; `LOAD=sweep`: 64 trials, long
LOAD ?=
load: setup
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m tests.load $(LOAD)

# MLflow's server on a real PostgreSQL and a real S3-compatible store; adds tests/tracking/servers.txt to the environment
servers: setup
	$(BIN)/python -m pip install -q -c constraints.txt -r tests/tracking/servers.txt
	$(BIN)/python -m pytest tests/tracking/test_stores.py

# the step for GPUs by Triton's interpreter and its compilers, which need no GPU (700 MB)
triton: setup
	$(BIN)/python -m pip install -q triton==3.7.1
	$(BIN)/python -m pytest tests/unit/test_fused_gpu.py

bench: setup
	$(BIN)/python -m benchmarks

# tools that look at the environment from outside, and so never change the tested set
$(TOOLS)/bin/cyclonedx-py:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1

# requirements.lock anew, after constraints.txt has changed (PyPI's hashes of all files of each version)
lock: $(TOOLS)/bin/uv
	{ echo '# The tested set with the sha256 of every file of it, but torch. Made from constraints.txt by `make lock`.'; \
	  grep -v '^torch==' constraints.txt | $(TOOLS)/bin/uv pip compile --quiet --no-config --no-deps --generate-hashes \
	  --no-header --no-annotate --python-version 3.11 -; } > requirements.lock.part
	mv requirements.lock.part requirements.lock

$(TOOLS)/bin/uv:
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet uv==0.13.9

# what is installed, as CycloneDX JSON
sbom: setup $(TOOLS)/bin/cyclonedx-py
	$(TOOLS)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --of JSON -o sbom.json

# the tested set against the advisories of PyPI (needs https://pypi.org)
audit: $(TOOLS)/bin/cyclonedx-py
	$(TOOLS)/bin/pip-audit -r constraints.txt --no-deps --disable-pip --strict
