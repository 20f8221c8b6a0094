# Two commands do all the set-up on a fresh machine (Python 3.11 or later, pip, network): `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m fairat_lightning
# The demo: its radius and epochs were chosen on seeds 0 to 4 (results/digits) alone, and what it says comes from these others.
SEEDS := 10 11 12 13 14
RADIUS := 0.2
.PHONY: $(foreach seed,$(SEEDS),base-$(seed) faal-$(seed) pgd_at-$(seed))
train = mkdir -p runs/demo; $(RUN) $(1) seed=$* hydra.run.dir=runs/demo/$@ overwrite=true > runs/demo/$@.log 2>&1 && \
	echo "$@ is trained." || { tail -n 5 runs/demo/$@.log; echo "$@ has failed: see runs/demo/$@.log"; exit 1; }
.PHONY: help install run test test-slow test-slurm check format wheel bench bench-quick speed soak readme docs docs-serve clean
help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "make -C studies  list the long studies, whose records are in results/"
install: .venv/.dev     ## make .venv with the package and the tools of its development
run: .venv/.run         ## five seeds of PGD-AT and of FAAL on scanned digits side by side, and one sentence on what FAAL changes
	@echo "Training $(words $(SEEDS)) seeds, two runs at a time; what each run says goes to runs/demo/*.log."
	@OMP_NUM_THREADS=1 $(MAKE) --no-print-directory -j 2 $(SEEDS:%=faal-%) $(SEEDS:%=pgd_at-%)
	@$(RUN).report $(SEEDS:%=PGD-AT=runs/demo/pgd_at-%) $(SEEDS:%=FAAL=runs/demo/faal-%) --to runs/demo
# A base a seed; from it 4 epochs of FAAL, and 4 of PGD-AT (FAAL with radius 0), so that the rows differ in nothing but FAAL.
$(SEEDS:%=base-%): base-%: .venv/.run
	@$(call train,experiment=digits_pgd_at)
$(SEEDS:%=faal-%): faal-%: base-%
	@$(call train,experiment=digits_faal method.radius=$(RADIUS) init_from=runs/demo/base-$*)
$(SEEDS:%=pgd_at-%): pgd_at-%: base-%
	@$(call train,experiment=digits_faal method.radius=0 init_from=runs/demo/base-$*)
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
bench-quick: .venv/.dev ## each goal of the speed of training, its figure, and whether it is met: minutes
	$(BIN)/python studies/bench/bench.py --quick
speed: .venv/.run       ## training images a second against width, attack steps, precision and cores: minutes
	$(BIN)/python studies/speed.py --to results/speed.json
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
