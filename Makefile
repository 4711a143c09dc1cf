# make demo   set up, then prepare text, train, evaluate and sample a small LOST model (minutes on two cores)
# make test   set up, then run the tests
# make lint   set up, then ruff and mypy
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo

# The text: Python's own standard library, which is on every machine that can run this.
STDLIB = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('stdlib'))")

.PHONY: demo test test-slow lint clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[torch,dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/lost prepare $(STDLIB) --include '*.py' --exclude site-packages --exclude test --exclude tests \
		--exclude idlelib --vocab-size 4096 --valid-fraction 0.02 --out $(DEMO)/data --overwrite
	$(BIN)/lost train quickstart --data $(DEMO)/data --out $(DEMO)/run --fresh --overwrite \
		--set model.vocab_size=4096
	$(BIN)/lost eval $(DEMO)/run
	$(BIN)/lost generate $(DEMO)/run --max-tokens 120 --prompt 'def read(self, path):'

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
