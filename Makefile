# Everything creates what it needs itself: `make demo` and `make test` work on a fresh checkout.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test check format lint types imports unit bench prove oracle oracle-engines oracle-ring servers soak mutate fuzz-planted fuzz-night figures pictures bytecode objects clean

$(VENV)/.ready: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pybpfvm needs Python 3.11 or newer")'
	@echo 'Creating $(VENV) and installing what the project needs (once, about a minute) ...'
	$(PYTHON) -m venv $(VENV) || { echo 'no venv module: on Debian, apt-get install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m compileall -q pybpfvm verifier helpers uring_backend
	touch $@

demo: $(VENV)/.ready
	$(BIN)/pybpfvm demo

test: check

check: $(VENV)/.ready lint types imports unit

lint: $(VENV)/.ready
	$(BIN)/ruff format --check pybpfvm verifier helpers uring_backend tests examples bench
	$(BIN)/ruff check pybpfvm verifier helpers uring_backend tests examples bench

format: $(VENV)/.ready
	$(BIN)/ruff format pybpfvm verifier helpers uring_backend tests examples bench
	$(BIN)/ruff check --fix pybpfvm verifier helpers uring_backend tests examples bench

types: $(VENV)/.ready
	$(BIN)/mypy

imports: $(VENV)/.ready
	$(BIN)/lint-imports --config setup.cfg

unit: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2

# Prints its tables and keeps the figures; `make figures` writes the speeds into README.md.
bench: $(VENV)/.ready
	$(BIN)/python -m bench --json bench/results.json

# Proofs of the verifier's numeric domains; z3 is needed here only.
prove: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[prove]'
	$(BIN)/python -m tests.verifier.domains.prove

# Generated programs, judged by the running kernel (as root) and by us: PYBPFVM_ORACLE_VERIFIER of them.
oracle: $(VENV)/.ready
	$(BIN)/python -m tests.verifier.campaign

# Generated programs on the interpreter and on compiled code (PYBPFVM_ENGINES of them), hostile ones on
# compiled code alone (PYBPFVM_ENGINES_HOSTILE), in PYBPFVM_ENGINES_WORKERS processes; one in PYBPFVM_ENGINES_LLVM on the
# engine llvm too (PYBPFVM_ENGINES_PART=llvm: only that). Goes on where it was stopped.
oracle-engines: $(VENV)/.ready
	$(BIN)/python -m tests.jit.campaign

# Generated request sequences on the simulated ring and on the kernel's: PYBPFVM_ORACLE_RING of them.
# Goes on where it was stopped.
oracle-ring: $(VENV)/.ready
	$(BIN)/python -m tests.uring_backend.campaign

# The servers of examples/, each with thousands of clients.
servers: $(VENV)/.ready
	PYBPFVM_LONG=1 $(BIN)/python -m pytest tests/examples/test_gallery_hosts.py

# Examples round after round in one process, with faults and rude clients: nothing leaks, no completion is
# lost. PYBPFVM_SOAK_SECONDS of it (3600), from seed PYBPFVM_SOAK_SEED (1).
soak: $(VENV)/.ready
	$(BIN)/python -m tests.soak.campaign

# Each rule of the verifier switched off, one at a time: some test must notice.
mutate: $(VENV)/.ready
	$(BIN)/python -m tests.verifier.mutate

# Bugs planted in verifier, engines, loader and simulated ring: how soon `fuzz` finds each, and
# `verify` and `explore` each broken twin of the examples, from 20 cold starts.
fuzz-planted: $(VENV)/.ready
	$(BIN)/python -m tests.fuzz.planted
	$(BIN)/python -m tests.fuzz.twins

# Every oracle of the fuzzer for MINUTES, and one report: build/fuzz-night/report.html and report.json.
MINUTES ?= 480
fuzz-night: $(VENV)/.ready
	$(BIN)/python -m tests.fuzz.night --minutes $(MINUTES)

# The tables of README.md and docs/, from what the campaigns above kept in docs/evidence/ and bench/results.json.
figures: $(VENV)/.ready
	$(BIN)/python -m tests.support.evidence

# The pictures of docs/debugging.md, from a session on a pseudo-terminal.
pictures: $(VENV)/.ready
	$(BIN)/python -m tests.support.terminal_pictures

# What the sources of bytecode of our own come to, kept beside them.
bytecode: $(VENV)/.ready
	$(BIN)/python -m pybpfvm.jit.assemble

objects:
	examples/build.sh

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
