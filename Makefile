# Every command sets up what it needs; a second run finds it ready.
# ARGS go to the program:  make demo ARGS="--task text"    make test ARGS="--backend torch"
# PYTHON names the interpreter for new environments:  make test PYTHON=python3.12

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help demo serve test test-long compose-test check format publish measure bench clean

# The newest that all pins have wheels for comes first; 3.14 will do for the demo, TensorFlow has no wheel for it.
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3.14 python3 python)
# -qq: pip's errors stay, its notes on indexes and versions go. Not uv: it takes torch with gigabytes of CUDA.
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-build-isolation -c constraints/ci.txt
DEPENDENCIES := pyproject.toml constraints/ci.txt

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | \
	  while IFS='|' read -r name text; do printf '%-18s %s\n' "$$name" "$$text"; done

demo: .venv-demo/ready  ## Ask for advice on real data and see whether it was worth it (JAX, some minutes)
	@KERAS_BACKEND=jax .venv-demo/bin/gradopt demo $(ARGS)

serve: .venv-demo/ready  ## Open the page and the HTTP service on http://127.0.0.1:8000/ (JAX)
	@KERAS_BACKEND=jax .venv-demo/bin/gradopt serve $(ARGS)

test: .venv/ready  ## Run the tests on JAX, TensorFlow and torch
	@.venv/bin/python tests/run.py $(ARGS)

test-long: .venv/ready  ## The same with the slow tests
	@.venv/bin/python tests/run.py --slow $(ARGS)

compose-test:  ## Really start the containers, without Docker, and kill the worker's (root on Debian; 1.5 GB in .compose)
	@python3 -m tests.compose.run

check: .venv/ready  ## Formatting, lint, types, architecture
	@failed=; step() { echo "==> $$1"; shift; .venv/bin/"$$@" || failed=yes; }; \
	step "ruff format" ruff format --check .; \
	step "ruff check" ruff check .; \
	step "mypy" mypy; \
	step "architecture" python -m pytest -q tests/test_architecture.py; \
	[ -z "$$failed" ]

format: .venv/ready  ## Let ruff format and repair what it can
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

publish: .venv/ready  ## Grow the prior and its odds from the truth table; write the catalogue for readers without Keras
	@KERAS_BACKEND=jax .venv/bin/python -m recommender.rehearsal
	@KERAS_BACKEND=jax .venv/bin/python -m recommender.knowledge.publish

measure: .venv/ready  ## Train the tasks that the truth table lacks, and put them in (NAMES="wine_mlp ...": these)
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r constraints/tasks.txt
	@KERAS_BACKEND=jax .venv/bin/python -m recommender.knowledge.measure $(NAMES) $(ARGS)
	@KERAS_BACKEND=jax .venv/bin/python -m recommender.knowledge.table .truth

bench: .venv/ready  ## Measure and write docs/benchmarks/ (SCRIPTS="step fit memory probes service advice mending", BACKENDS=torch: only these)
	@set -e; run() { echo "==> $$*"; KERAS_BACKEND=$$backend .venv/bin/python -m "benchmarks.$$@" $(ARGS); }; \
	results=docs/benchmarks/results; \
	for script in $(or $(SCRIPTS),step fit memory probes service); do \
	  if [ $$script = service ]; then backend=jax; run service --json $$results/service.json; continue; fi; \
	  if [ $$script = advice ]; then backend=jax; run advice --json $$results/advice.json; continue; fi; \
	  if [ $$script = closures ]; then backend=jax; run closures --json $$results/closures.json; continue; fi; \
	  if [ $$script = mending ]; then backend=jax; run mending --json $$results/mending.json; continue; fi; \
	  for backend in $(or $(BACKENDS),jax tensorflow torch); do \
	    compiled=; [ $$script-$$backend != step-torch ] || compiled=--compiled; \
	    run $$script $$compiled --json $$results/$$script-$$backend.json; \
	  done; \
	done; \
	.venv/bin/python -m benchmarks.pages

clean:  ## Remove the environments and everything that tools left behind
	rm -rf .venv .venv-demo .compose .test-results .pytest_cache .ruff_cache .mypy_cache build dist ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an install that was interrupted starts again.
.venv-demo/ready: $(DEPENDENCIES)
	@$(call environment,.venv-demo,3.99)
	@echo "==> [1/2] installing JAX and Keras (about 800 MB on disk with the rest)"
	@.venv-demo/bin/python $(PIP_INSTALL) setuptools jax keras
	@echo "==> [2/2] installing keras_gradopt and the rest"
	@.venv-demo/bin/python $(PIP_INSTALL) -e ".[jax,api]"
	@touch $@

.venv/ready: $(DEPENDENCIES)
	@$(call environment,.venv,3.13)
	@echo "==> [1/4] installing JAX"
	@.venv/bin/python $(PIP_INSTALL) setuptools jax
	@echo "==> [2/4] installing TensorFlow (about 1.3 GB on disk)"
	@.venv/bin/python $(PIP_INSTALL) tensorflow-cpu
	@echo "==> [3/4] installing torch (about 0.8 GB on disk)"
	@.venv/bin/python $(PIP_INSTALL) torch
	@echo "==> [4/4] installing keras_gradopt and the tools"
	@.venv/bin/python $(PIP_INSTALL) -e ".[jax,torch,api,dev]"
	@touch $@

# $(call environment,FOLDER,LAST): an environment in FOLDER, of Python 3.11 to LAST; kept if it works, made anew if not.
# A name on the PATH may be a shim that runs nothing, and Debian splits off venv: so each one is tried.
comma := ,
define environment
if $(1)/bin/python -c "" 2>/dev/null; then echo "==> keeping the environment $(1)"; exit 0; fi; \
python=; reasons=; for name in $(PYTHONS); do \
  version=$$("$$name" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue; \
  if ! "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= ($(subst .,$(comma),$(2))))'; then \
    reasons="$$reasons\n  $$name is Python $$version"; \
  elif ! "$$name" -c 'import venv, ensurepip' 2>/dev/null; then \
    reasons="$$reasons\n  $$name (Python $$version) lacks the venv module; on Debian and Ubuntu: apt install python3-venv"; \
  else python="$$name"; break; fi; \
done; \
if [ -z "$$python" ]; then \
  printf "No Python of version 3.11$(if $(filter 3.99,$(2)), or later, to $(2)) that can make an environment was found among: $(PYTHONS).$$reasons\n" >&2; \
  printf "Install one, or name one: make %s PYTHON=/path/to/python3.12\n" "$(firstword $(MAKECMDGOALS))" >&2; \
  exit 1; \
fi; \
echo "==> making the environment $(1) with Python $$version"; \
rm -rf $(1) && "$$python" -m venv $(1)
endef
