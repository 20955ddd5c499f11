# Works in the active environment (conda, venv or plain); another Python: `make test PYTHON=...`.
PYTHON ?= $(if $(shell command -v python 2>/dev/null),python,python3)
SETUP := tools/setup_environment.py

# Where Detectron2 and torch come from, if they cannot be imported; see tools/setup_environment.py.
DETECTRON2 ?=
TORCH ?=
export DETECTRON2 TORCH

# More for one call: `make demo OPTIONS="SOLVER.MAX_ITER 500"`, `make test TESTS=tests/modeling`.
OPTIONS :=
TESTS :=

# The demo's start: a narrow ResNet-18 that has classified crops of the built-in data, as the paper's
# have ImageNet. A minute or two; kept until it is deleted.
START := output/quick/R-18-narrow.pkl
START_ITERATIONS := 200

# The demo's run: output/demo, or what OPTIONS names.
DEMO_NAMED = $(filter OUTPUT_DIR=%,$(subst OUTPUT_DIR ,OUTPUT_DIR=,$(strip $(OPTIONS))))
DEMO = $(or $(patsubst OUTPUT_DIR=%,%,$(lastword $(DEMO_NAMED))),output/demo)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-stock pictures results test test-slow test-page lint

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:  ## install what is missing: torch and torchvision, Detectron2 (DETECTRON2=...), this package
	@$(PYTHON) $(SETUP)

demo: setup $(START)  ## train and evaluate a small FPN Faster R-CNN on built-in data, and draw it
	$(PYTHON) train_net.py --config-file configs/quick/demo.yaml OUTPUT_DIR $(DEMO) \
	  OVERWRITE_OUTPUT_DIR True $(OPTIONS)
	@$(PYTHON) tools/draw_results.py $(DEMO)

demo-stock: setup $(START)  ## the same training with stock Detectron2's model and trainer, to compare
	$(PYTHON) tools/train_stock.py --config-file configs/quick/demo.yaml OUTPUT_DIR $(DEMO) \
	  $(OPTIONS)

$(START): | setup
	$(PYTHON) tools/pretrain_backbone.py --config-file configs/quick/demo.yaml --output $@ \
	  --iterations $(START_ITERATIONS)

pictures: setup  ## make the README's picture from the model that `make demo` trained
	@$(PYTHON) dev/make_pictures.py

results: setup  ## write the tables in docs/ and the reports in results/ from results/*.json
	@$(PYTHON) dev/write_results.py

# On every core, with one thread for each process: networks this small gain nothing from two. Without
# a GPU, which the processes would share; docs/speed.md has the command of the test that needs one.
PYTEST = CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -n auto --dist worksteal

# OpenVINO is one wheel of 60 MB; NNCF brings SciPy and scikit-learn, and its tests are slow anyway.
test: setup  ## run the quick tests on a CPU, on all its cores
	@$(PYTHON) $(SETUP) pytest xdist hypothesis submitit openvino
	$(PYTEST) -m "not slow" $(TESTS)

# pytest ends with 5 where it selected nothing: fine only while no test is marked slow.
test-slow: setup  ## run the slow tests
	@$(PYTHON) $(SETUP) pytest xdist hypothesis submitit openvino nncf onnx
	@$(PYTEST) -m slow $(TESTS) || { status=$$?; \
	  [ $$status -eq 5 ] && ! grep -rq --include='*.py' 'mark\.slow' tests || exit $$status; }

# Gradio wants an older Pillow than the rest, hence an environment of its own over this one (also
# where this one is a venv, which --system-site-packages alone would pass over).
PAGE := .page-environment
test-page: setup  ## test the page of tools/app.py in a real browser
	@[ -x $(PAGE)/bin/python ] || $(PYTHON) -m venv --system-site-packages $(PAGE)
	@$(PYTHON) -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > $$($(PAGE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth
	@$(PAGE)/bin/python -m pip install --quiet --disable-pip-version-check gradio playwright pytest
	FPN_D2_PAGE_TESTS=1 $(PAGE)/bin/python -m pytest -q tests/app

lint:  ## check style and format with ruff (needs neither torch nor Detectron2)
	@$(PYTHON) $(SETUP) ruff
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
