# Two commands do all the set-up on a fresh machine (Python 3.11 or later, pip, network): `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m fairat_lightning
.PHONY: help install run test test-slow test-slurm check format wheel bench soak readme docs docs-serve clean
help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "make -C studies  list the long studies, whose records are in results/"
install: .venv/.dev     ## make .venv with the package and the tools of its development
run: .venv/.run         ## train a PGD-AT base on scanned digits, make it fairer with FAAL, show both class by class
	$(RUN) experiment=digits_pgd_at hydra.run.dir=runs/demo/pgd_at overwrite=true
	$(RUN) experiment=digits_faal init_from=runs/demo/pgd_at hydra.run.dir=runs/demo/faal overwrite=true
	$(RUN).report PGD-AT=runs/demo/pgd_at FAAL=runs/demo/faal --to runs/demo
test: check             ## everything that must hold, in minutes
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"
test-slow: .venv/.dev   ## long learning runs, kills and several processes
	$(BIN)/python -m pytest -n auto -m slow
test-slurm: .venv/.dev  ## time limit, pre-emption and sweeps on a SLURM of one node, from Debian's packages; a quarter of an hour
	PATH=$$PATH:/usr/sbin; (command -v slurmctld && command -v slurmd) || test $$(id -u) != 0 || \
	(apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge)
	$(BIN)/python -m pytest -rs tests/slurm/on_slurm.py
check: .venv/.dev       ## lint, format and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
format: .venv/.dev      ## mend what lint and format can mend by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
wheel: .venv/.dev       ## build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist .
bench: .venv/.run       ## a step against published code, each optimisation alone, attacks, methods: an hour on two cores
	$(BIN)/python -m pip install --quiet -c constraints.txt cvxpy
	$(BIN)/python studies/bench/bench.py --to results
	OMP_NUM_THREADS=1 $(BIN)/python studies/cost.py --to results/cost.json
soak: .venv/.run        ## half an hour of kills at random moments; what went on must be what was never stopped, to the bit
	$(BIN)/python studies/soak.py --to results/soak.json
readme: .venv/.run      ## the first table of the README and the list of what was run, from the records
	$(BIN)/python studies/readme.py
docs: .venv/.dev        ## build the documentation site into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html
docs-serve: docs        ## show it on http://localhost:8000
	$(BIN)/python -m http.server --bind localhost --directory docs/_build/html 8000
clean:                  ## remove .venv, runs and what was built
	rm -rf .venv runs dist build docs/_build docs/configuration.md
.venv/bin/python:
	$(PYTHON) -m venv .venv
.venv/.run: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@
.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ .venv/.run
