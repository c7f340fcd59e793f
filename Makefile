# On a fresh Debian machine `make demo` and `make test` are each the only command needed.
#
#   make demo                               segment two sample images, write the results, show them
#   make test                               all tests, under a virtual display
#   make test ARGS="tests/test_planes.py"   some of them, in one process; ARGS goes to pytest
#   make lint                               style and types
#   make docs                               the documentation as a site, in build/site
#   make screenshots                        the pictures of the docs, and the dock's states in build/
#   make setup                              only .venv and what belongs into it
#
# PYTHON=python3.12 picks the interpreter that .venv is made with.

PYTHON ?= python3
ARGS ?=
export PYTHON

ifeq ($(shell uname -s),Linux)
VIRTUAL_DISPLAY = xvfb-run -a -s "-screen 0 1280x1024x24"
endif

.PHONY: help setup demo test lint docs screenshots

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@tools/setup.sh

demo:
	@tools/setup.sh
	.venv/bin/napari-clipsam demo $(ARGS)

# Most networks of the tests are tiny, and where other programs want the same cores a second thread
# makes every step wait for both.
# Options alone do not say where the tests are; pytest needs the folder to know our own options.
ALL_TESTS = tests --numprocesses 2
test: export OMP_NUM_THREADS ?= 1
test:
	@tools/setup.sh --needs-display
	$(VIRTUAL_DISPLAY) .venv/bin/python -m pytest $(if $(filter tests%,$(ARGS)),,$(ALL_TESTS)) $(ARGS)

lint:
	@tools/setup.sh
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs:
	@tools/setup.sh
	.venv/bin/python -m sphinx --fail-on-warning --keep-going -q -b html docs build/site $(ARGS)
	@echo "Open build/site/index.html"

# ARGS="stack" makes the pictures of one session only.
screenshots:
	@tools/setup.sh --needs-display
	$(VIRTUAL_DISPLAY) .venv/bin/python docs/screenshots/sessions.py $(ARGS)
	$(VIRTUAL_DISPLAY) .venv/bin/python docs/screenshots/animation.py
	$(VIRTUAL_DISPLAY) .venv/bin/python docs/screenshots/dock_states.py build/dock
