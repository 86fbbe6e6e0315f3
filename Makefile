# Everything runs in .venv, which is made once from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install model lint format types test test-slow test-kills test-schedulers conformance servers conformance-servers flink-install flink test-cuda bench soak lock clean

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
		sys.exit(None if (3, 11) <= v < (3, 13) else "lexbeam needs Python 3.11 or 3.12; make PYTHON=… names one")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# The default model, fetched once into the cache.
model: $(INSTALLED)
	$(BIN)/lexbeam models pull multilingual-e5-small-q4

# mypy finds the three folders under their package's name here.
build/typing/lexbeam:
	mkdir -p $@
	for folder in models transforms pipeline; do ln -sfn ../../../$$folder $@/$$folder; done

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) build/typing/lexbeam
	$(BIN)/mypy -p lexbeam.models -p lexbeam.transforms -p lexbeam.pipeline

test: model
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: model
	$(BIN)/lexbeam models pull all-MiniLM-L6-v2
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow --durations 12

# Jobs whose processes are killed, crash or hang; LEXBEAM_KILLS=50 for more random kills.
test-kills: model
	$(BIN)/python -m pytest -n 2 --dist worksteal -m kills --durations 12

# The examples under cron, systemd and Airflow, which is installed for it.
test-schedulers: $(INSTALLED)
	$(BIN)/python -m pytest -m schedulers

# The servers that the conformance tests run on, built by Go where that is installed.
servers:
	tests/conformance/install_tools.sh prism boot fake-gcs-server

conformance-servers: servers
	tests/conformance/install_tools.sh minio

# The same job on other runners, with other workers and on object stores, without a network.
conformance: $(INSTALLED) conformance-servers
	$(BIN)/python -m tests.conformance.offline $(BIN)/python -m pytest -n 3 --dist loadgroup \
		-m "conformance and not soak" --durations 12

# Beam's job server and a Flink of its own, where Java and Maven are.
flink-install: $(INSTALLED)
	PYTHON=$(BIN)/python deploy/flink/install.sh

# The same job on a real Flink cluster of this machine, whose processes are killed under it.
flink: $(INSTALLED) flink-install
	$(BIN)/python -m tests.conformance.offline $(BIN)/python -m pytest \
		-m "flink and not soak" --durations 12

# On a machine with a CUDA device.
test-cuda: model
	$(BIN)/python -m pytest -m cuda

# The script that people write today against `lexbeam run`: make bench INPUT=corpus.jsonl
bench: model
	$(BIN)/python benchmarks/end_to_end.py --input $(INPUT)

# What takes long: counting twenty million distinct terms, the memory of the text stages up to
# 400,000 documents, and that of the LDA, fifty kills. Needs Linux.
CORPORA ?= ../shared/corpora
soak: model servers flink-install
	LEXBEAM_KILLS=50 $(BIN)/python -m pytest -n 2 --dist worksteal -m kills --durations 12
	$(BIN)/python -m tests.conformance.offline $(BIN)/python -m pytest -m "(conformance or flink) and soak"
	$(BIN)/python benchmarks/counting.py --check
	$(BIN)/python benchmarks/counting.py --compressed --check
	$(BIN)/python benchmarks/memory.py --check $(addprefix --input ,$(wildcard $(CORPORA)/*.jsonl))
	$(BIN)/python benchmarks/lda.py --check --runs 1 --parts threads,documents,topics \
		$(addprefix --input ,$(wildcard $(CORPORA)/*.jsonl))

# Writes requirements.lock anew, and of it what the image holds; needs uv (`pip install uv`).
LOCK := uv pip compile pyproject.toml --python-version 3.11 --no-emit-index-url --no-header --no-annotate
lock:
	$(LOCK) --extra openvino --extra int8 --extra dev --universal -o requirements.lock
	$(LOCK) --extra openvino --extra gcp --extra aws --python-platform x86_64-unknown-linux-gnu \
		--constraints requirements.lock -o deploy/requirements.lock

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
