# Works in the active environment (conda, venv or plain); another Python: `make test PYTHON=...`.
PYTHON ?= $(or $(shell command -v python 2>/dev/null),python3)
SETUP := tools/setup_environment.py

# What to install Detectron2 from, where it cannot be imported: a pip requirement, a wheel, a source
# folder or a git repository (a bare one too). Empty: its pinned commit from GitHub.
DETECTRON2 ?=
export DETECTRON2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:  ## install what is missing: torch and torchvision, Detectron2 (DETECTRON2=...), this package
	@$(PYTHON) $(SETUP)

demo: setup  ## train and evaluate a small FPN Faster R-CNN on built-in data, and draw its detections
	$(PYTHON) train_net.py --config-file configs/quick/demo.yaml OUTPUT_DIR output/demo
	$(PYTHON) tools/draw_results.py output/demo

test: setup  ## run the quick tests on a CPU
	@$(PYTHON) $(SETUP) pytest
	$(PYTHON) -m pytest -q -m "not slow"

# pytest ends with 5 where it selected nothing: fine only while no test is marked slow.
test-slow: setup  ## run the slow tests
	@$(PYTHON) $(SETUP) pytest
	@$(PYTHON) -m pytest -q -m slow || { status=$$?; \
	  [ $$status -eq 5 ] && ! grep -rq --include='*.py' 'mark\.slow' tests || exit $$status; }

lint:  ## check style and format with ruff (needs neither torch nor Detectron2)
	@$(PYTHON) $(SETUP) ruff
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
