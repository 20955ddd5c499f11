# Works in the active environment (conda, venv or plain); another Python: `make test PYTHON=...`.
PYTHON ?= $(or $(shell command -v python 2>/dev/null),python3)
SETUP := tools/setup_environment.py

# What to install Detectron2 from, where it cannot be imported: a pip requirement, a wheel, a source
# folder or a git repository (a bare one too). Empty: its pinned commit from GitHub.
DETECTRON2 ?=
export DETECTRON2

# More for one call: `make demo OPTIONS="SOLVER.MAX_ITER 500"`, `make test TESTS=tests/modeling`.
OPTIONS :=
TESTS :=

# The demo's start: a ResNet-18 that has classified crops of the built-in data, as the paper's have
# ImageNet. About a minute; kept until it is deleted.
START := output/quick/R-18.pkl
START_ITERATIONS := 200

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-stock pictures results test test-slow lint

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:  ## install what is missing: torch and torchvision, Detectron2 (DETECTRON2=...), this package
	@$(PYTHON) $(SETUP)

demo: setup $(START)  ## train and evaluate a small FPN Faster R-CNN on built-in data, and draw it
	$(PYTHON) train_net.py --config-file configs/quick/demo.yaml OUTPUT_DIR output/demo \
	  OVERWRITE_OUTPUT_DIR True $(OPTIONS)
	@$(PYTHON) tools/draw_results.py output/demo

demo-stock: setup $(START)  ## the same training with stock Detectron2's model and trainer, to compare
	$(PYTHON) tools/train_stock.py --config-file configs/quick/demo.yaml OUTPUT_DIR output/demo \
	  $(OPTIONS)

$(START): | setup
	$(PYTHON) tools/pretrain_backbone.py --config-file configs/quick/demo.yaml --output $@ \
	  --iterations $(START_ITERATIONS)

pictures: setup  ## make the README's picture from the model that `make demo` trained
	@$(PYTHON) dev/make_pictures.py

results: setup  ## write the tables of docs/ and the reports from results/*.json
	@$(PYTHON) dev/write_results.py

test: setup  ## run the quick tests on a CPU
	@$(PYTHON) $(SETUP) pytest hypothesis
	$(PYTHON) -m pytest -q -m "not slow" $(TESTS)

# pytest ends with 5 where it selected nothing: fine only while no test is marked slow.
test-slow: setup  ## run the slow tests
	@$(PYTHON) $(SETUP) pytest hypothesis
	@$(PYTHON) -m pytest -q -m slow $(TESTS) || { status=$$?; \
	  [ $$status -eq 5 ] && ! grep -rq --include='*.py' 'mark\.slow' tests || exit $$status; }

lint:  ## check style and format with ruff (needs neither torch nor Detectron2)
	@$(PYTHON) $(SETUP) ruff
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
