# Two commands do all the set-up on a fresh machine (Python 3.11 or later, pip, network): `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m fairat_lightning
BUDGET := smoke
.PHONY: run test test-slow test-slurm check format wheel results-digits results-autoattack results-cifar10 results-leaderboard results-floor results-precision results-reproduce readme bench soak clean

run: .venv/.run         ## train a PGD-AT base on scanned digits, make it fairer with FAAL, show both class by class
	$(RUN) experiment=digits_pgd_at hydra.run.dir=runs/demo/pgd_at overwrite=true
	$(RUN) experiment=digits_faal init_from=runs/demo/pgd_at hydra.run.dir=runs/demo/faal overwrite=true
	$(RUN).report PGD-AT=runs/demo/pgd_at FAAL=runs/demo/faal --to runs/demo

test: check             ## everything that must hold, in minutes
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: .venv/.dev   ## long learning runs, kills and several processes
	$(BIN)/python -m pytest -n auto -m slow

test-slurm: .venv/.dev  ## time limit, pre-emption and sweeps on a SLURM of one node, from Debian's packages; a quarter of an hour
	PATH=$$PATH:/usr/sbin; (command -v slurmctld && command -v slurmd) || test $$(id -u) != 0 || \
	(apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge)
	$(BIN)/python -m pytest -rs tests/slurm/on_slurm.py

check: .venv/.dev       ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: .venv/.dev
	$(BIN)/python -m build --wheel --outdir dist .

results-digits: .venv/.run    ## the digits study of the README, about half an hour on one core
	PYTHON=$(BIN)/python bash results/digits.sh

results-autoattack: .venv/.run    ## PGD-AT against FAAL on digits under AutoAttack, about an hour on one core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[autoattack]'
	PYTHON=$(BIN)/python bash results/digits_autoattack.sh

results-cifar10: .venv/.run   ## CIFAR-10 at a CPU's size; ROOT=FOLDER holds cifar-10-batches-py
	PYTHON=$(BIN)/python ROOT=$(ROOT) bash results/cifar10_cpu.sh

results-leaderboard: .venv/.run   ## every method on digits and on a CIFAR-10 subset, hours; ROOT=FOLDER holds cifar-10-batches-py
	PYTHON=$(BIN)/python bash results/leaderboard.sh digits
	PYTHON=$(BIN)/python ROOT=$(ROOT) bash results/leaderboard.sh cifar10

results-floor: .venv/.run     ## FLOOR on digits without one of its parts each; after results-leaderboard
	PYTHON=$(BIN)/python bash results/floor.sh

results-precision: .venv/.run ## float32 against bf16, on digits and on a CIFAR-10 subset, half an hour; ROOT as above
	PYTHON=$(BIN)/python bash results/precision.sh digits
	PYTHON=$(BIN)/python ROOT=$(ROOT) bash results/precision.sh cifar10

results-reproduce: .venv/.run ## the papers' tables; ROOT as above, BUDGET=smoke, night, hour or full, WORDS of every training: trainer=gpu
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[autoattack]'
	for table in faal faal100 fairat leaderboard; do \
	$(RUN).reproduce table=$$table budget=$(BUDGET) "data.root=$(ROOT)" to=results/$$table-$(BUDGET) $(WORDS) || exit; done
	$(BIN)/python results/readme.py

readme: .venv/.run            ## the first table of the README and the list of what was run, from the records
	$(BIN)/python results/readme.py

bench: .venv/.run             ## a step against published code, each optimisation alone, attacks, methods: an hour on two cores
	$(BIN)/python -m pip install --quiet -c constraints.txt cvxpy
	$(BIN)/python results/bench/bench.py --to results
	OMP_NUM_THREADS=1 $(BIN)/python results/cost.py --to results/cost.json

soak: .venv/.run             ## half an hour of kills at random moments; what went on must be what was never stopped, to the bit
	$(BIN)/python results/soak.py --to results/soak.json

clean:
	rm -rf .venv runs dist build

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ .venv/.run
