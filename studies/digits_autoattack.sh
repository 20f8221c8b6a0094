#!/usr/bin/env bash
# PGD-AT against FAAL on digits under the standard AutoAttack, five seeds each: `make -C studies autoattack`.
set -euo pipefail
seeds="0 1 2 3 4"
runs=runs/digits_autoattack
python="${PYTHON:-python} -m fairat_lightning"
rows=()
for seed in $seeds; do
  $python experiment=digits_pgd_at trainer=cpu trainer.precision=32-true "seed=$seed" "hydra.run.dir=$runs/pgd_at-s$seed"
  $python experiment=digits_faal method.radius=0 trainer=cpu trainer.precision=32-true "seed=$seed" "init_from=$runs/pgd_at-s$seed" "hydra.run.dir=$runs/more-s$seed"
  $python experiment=digits_faal trainer=cpu trainer.precision=32-true "seed=$seed" "init_from=$runs/pgd_at-s$seed" "hydra.run.dir=$runs/faal-s$seed"
  for name in more faal; do $python.evaluate "checkpoint=$runs/$name-s$seed" suite=autoattack; done
done
for seed in $seeds; do rows+=("PGD-AT, 4 more epochs=$runs/more-s$seed"); done
for seed in $seeds; do rows+=("FAAL, 4 more epochs, radius 0.1=$runs/faal-s$seed"); done
$python.report "${rows[@]}" --to $runs/report
"${PYTHON:-python}" studies/take.py $runs/report results/digits_autoattack
