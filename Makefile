# mmcontainer: `make` lists what there is. Two commands show everything: make demo, make test.

# The Python that makes the environments: `make env PYTHON=/path/to/python3.11`.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done || true)
ifeq ($(strip $(PYTHON)),)
PYTHON := python3
endif
VENV ?= .venv
# One of the folders of requirements/: onedl (the default), upstream, classic, newest, lite.
STACK ?= onedl
# lite has no MMDetection.
LITE_TESTS := $(addprefix tests/,ops layers backbones test_without_mmdet.py $(addprefix \
	checkpoints/test_,conversion.py integrity.py restricted.py))
STACK_TESTS ?= $(if $(filter lite,$(STACK)),$(LITE_TESTS))
VENV_STACK ?= $(if $(filter onedl,$(STACK)),$(VENV),.venv-$(STACK))
VENV_DOCS ?= .venv-docs
VENV_EXPLORE ?= .venv-explore
VENV_SEG ?= .venv-seg
# For example: make test PYTEST_ARGS='-k doctor -x'
PYTEST_ARGS ?=
# So many processes run tests, one thread and up to 4 GB of memory each.
PYTEST_WORKERS ?= 2
# In the order of their names: by default the files with the fewest tests come last, which are those
# that take minutes.
PYTEST_PARALLEL := -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder
# COVERAGE=1 also measures how much of the package the tests run through; Python then takes half as
# long again.
PYTEST_COVERAGE := $(if $(COVERAGE),--cov=mmcontainer --cov-report=term:skip-covered)
FUZZ_ARGS ?=
# The folder of real data; tests that need it say so and are skipped where it is not given.
ifdef MMCONTAINER_TEST_DATA
export MMCONTAINER_TEST_DATA
endif
# The Python of a second environment: checkpoints are exchanged with it.
ifdef MMCONTAINER_OTHER_PYTHON
export MMCONTAINER_OTHER_PYTHON
endif

.DEFAULT_GOAL := help
.PHONY: help env setup demo test test-fast test-stack lint fuzz docs doctor clean
.PHONY: env-explore test-explore env-seg test-seg

help:
	@echo 'make env            make .venv: torch, OpenMMLab (mmcv compiled), this project; 10 to 20 min'
	@echo '                    the first time, then seconds. `make setup` is the same.'
	@echo 'make demo           env, then train, evaluate and draw a detector on generated data; 7 to 12 min'
	@echo 'make test           env, then all tests; 15 to 40 min on 2 cores. COVERAGE=1 measures coverage'
	@echo 'make test-fast      env, then the tests that take seconds; some minutes'
	@echo 'make test-stack     the tests on other packages, in .venv-STACK: STACK=classic (torch 2.1),'
	@echo '                    upstream, newest, or lite (backbones alone); docs/compatibility.md'
	@echo 'make test-explore   the page of `mmcontainer explore` in a browser, in .venv-explore; 2 min'
	@echo 'make test-seg       models of MMSegmentation and MMRotate, in .venv-seg; 5 min'
	@echo 'make fuzz           env, then 1000 generated bad files and options, and what became of them;'
	@echo '                    3 min; FUZZ_ARGS="--cases 50 --seed 3 --domain options"'
	@echo 'make lint           env, then ruff; seconds'
	@echo 'make docs           build the site of docs/ into site/, in an environment of its own; 1 min'
	@echo 'make doctor         examine the environment, and say how to mend it; 30 s'
	@echo 'make clean          remove the environments; the cache of uv keeps what they were made of'
	@echo
	@echo 'PYTHON=... chooses the Python (3.10 to 3.13, tested 3.11; now: $(PYTHON)), VENV=... the'
	@echo 'folder, PYTEST_ARGS=... goes to pytest, MMCONTAINER_TEST_DATA=... is real data for tests.'

env setup:
	@PYTHON=$(PYTHON) tools/make_env.sh onedl $(VENV)

demo: env
	@$(VENV)/bin/python tools/demo.py

test: env
	$(VENV)/bin/python -m pytest $(PYTEST_PARALLEL) $(PYTEST_COVERAGE) $(PYTEST_ARGS)

test-fast: env
	$(VENV)/bin/python -m pytest -m 'not slow' $(PYTEST_PARALLEL) $(PYTEST_ARGS)

test-stack:
	@PYTHON=$(PYTHON) tools/make_env.sh $(STACK) $(VENV_STACK)
	$(VENV_STACK)/bin/python -m pytest $(PYTEST_PARALLEL) $(STACK_TESTS) $(PYTEST_ARGS)

# Apart from .venv: Gradio needs another Pillow.
env-explore:
	@PYTHON=$(PYTHON) tools/make_env.sh onedl $(VENV_EXPLORE)
	@$(VENV_EXPLORE)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements/explore.txt

test-explore: env-explore
	$(VENV_EXPLORE)/bin/python -m pytest tests/explore/test_page.py tests/explore/test_browser.py \
		$(PYTEST_ARGS)

# Apart from .venv, whose tests show what happens without MMSegmentation.
env-seg:
	@PYTHON=$(PYTHON) tools/make_env.sh onedl $(VENV_SEG)
	@$(VENV_SEG)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements/seg.txt

test-seg: env-seg
	$(VENV_SEG)/bin/python -m pytest tests/configs/test_segmentation_configs.py \
		tests/data_check/test_maps.py tests/detectors/test_mmrotate.py \
		tests/e2e/test_segmentation.py tests/paper/test_rows.py $(PYTEST_ARGS)

fuzz: env
	PYTHONPATH=tests $(VENV)/bin/python -m fuzz $(FUZZ_ARGS)

lint: env
	$(VENV)/bin/python -m ruff check .

# Sources are read, not imported: no torch is needed.
docs:
	@test -x $(VENV_DOCS)/bin/python || $(PYTHON) -m venv $(VENV_DOCS)
	@$(VENV_DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	@NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/python -m mkdocs build --strict

doctor:
	@test -x $(VENV)/bin/python || { echo 'There is no $(VENV) yet: run `make env`.'; exit 1; }
	@$(VENV)/bin/python mmcontainer/doctor.py

# Only what was made here: a folder that is no virtual environment is left alone.
clean:
	@for folder in $(VENV) $(VENV_DOCS) $(VENV_EXPLORE) $(VENV_SEG) .venv-*; do \
		if [ -f $$folder/pyvenv.cfg ]; then echo "removing $$folder"; rm -rf $$folder; fi; done
	rm -rf .uv site build dist mmcontainer.egg-info .pytest_cache .ruff_cache
