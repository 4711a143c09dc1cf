# make demo   set up, then prepare text, train, evaluate and sample a small LOST model (minutes on two cores);
#             BACKEND=mlx or BACKEND=torch chooses who computes
# make test   set up, then run the tests
# make lint   set up, then ruff and mypy
# make docs   the documentation as a site, in build/site, with mkdocs from an environment of its own
# PYTHON=python3.12 names the interpreter that .venv is made with (setup.sh says which will do).
export PYTHON
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo
PROMPT := def read(self, path):
BACKEND ?= auto
LOST = $(BIN)/lost
SIZES =

# The demo installs what computes, and no more: on a Mac MLX, else PyTorch.
COMPUTES = torch
ifeq ($(shell uname -s),Darwin)
ifneq ($(BACKEND),torch)
COMPUTES = mlx
endif
endif

# MLX is made for Macs. On Linux its own BLAS is a slow reference one, so PyTorch's is put in front of it here, and less
# than a third of the text is read. The library itself never does such a thing.
ifeq ($(BACKEND)-$(shell uname -s),mlx-Linux)
LOST = LD_PRELOAD=$(shell ls $(VENV)/lib/python3*/site-packages/torch/lib/libtorch_cpu.so) $(BIN)/lost
SIZES += --set train.batch_size=4 --set schedule.steps=150 --set train.eval_every=150
COMPUTES = torch,mlx
endif

# The text: Python's own standard library, which is on every machine that can run this.
STDLIB = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('stdlib'))")

.PHONY: demo test test-slow lint docs clean

$(READY): setup.sh pyproject.toml constraints.txt
	sh setup.sh torch,mlx,dev
	touch $(READY)

$(VENV)/.ready-$(COMPUTES): setup.sh pyproject.toml constraints.txt
	sh setup.sh $(COMPUTES)
	touch $@

demo: $(VENV)/.ready-$(COMPUTES)
	$(LOST) prepare $(STDLIB) --include '*.py' --exclude site-packages --exclude test --exclude tests \
		--exclude idlelib --vocab-size 4096 --valid-fraction 0.02 --out $(DEMO)/data --overwrite
	$(LOST) train quickstart --data $(DEMO)/data --out $(DEMO)/run --fresh --overwrite --backend $(BACKEND) $(SIZES) \
		"train.sample_prompts=['$(PROMPT)']"
	$(LOST) eval $(DEMO)/run --backend $(BACKEND)
	$(LOST) generate $(DEMO)/run --backend $(BACKEND) --max-tokens 120 --prompt '$(PROMPT)'

# As many processes as tests/conftest.py says, and one thread in each: two threads that share a core wait for each other.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal

test-slow: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Its own environment: what is tested doesn't change with what a theme brings.
build/docs/bin/mkdocs: pyproject.toml
	python3 -m venv build/docs
	build/docs/bin/pip install --quiet --disable-pip-version-check -c constraints.txt '.[docs]'

docs: build/docs/bin/mkdocs
	build/docs/bin/mkdocs build

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
