#!/usr/bin/env bash
# The digits study: PGD-AT, FAAL fine-tuned from it and from scratch, FairAT with its controls. `make -C studies digits` runs it.
set -euo pipefail
seeds=0,1,2,3,4
runs=runs/digits
run() { "${PYTHON:-python}" -m fairat_lightning -m trainer=cpu trainer.precision=32-true "hydra.sweep.dir=$runs" "seed=$seeds" "$@"; }

run experiment=digits_pgd_at 'hydra.sweep.subdir=pgd_at-s${seed}'
run experiment=digits_faal 'init_from=runs/digits/pgd_at-s${seed}' method.radius=0,0.05,0.1,0.2,0.5 \
  'hydra.sweep.subdir=faal-r${method.radius}-s${seed}'
run data=digits method=faal method.radius=0.1,0.5 'hydra.sweep.subdir=faal_scratch-r${method.radius}-s${seed}'
run experiment=digits_fairat method.subset=hard,random,all method.augmentation=cutout,randaugment \
  'hydra.sweep.subdir=fairat-${method.subset}-${method.augmentation}-s${seed}'

rows=()
add() { for seed in ${seeds//,/ }; do rows+=("$1=$runs/$2-s$seed"); done; }
add "PGD-AT, 30 epochs" pgd_at
add "PGD-AT, 4 more epochs" faal-r0
for radius in 0.05 0.1 0.2 0.5; do add "FAAL, 4 more epochs, radius $radius" "faal-r$radius"; done
for radius in 0.1 0.5; do add "FAAL from scratch, radius $radius" "faal_scratch-r$radius"; done
for augmentation in cutout randaugment; do
  for subset in hard random all; do add "FairAT, $augmentation on $subset" "fairat-$subset-$augmentation"; done
done
"${PYTHON:-python}" -m fairat_lightning.report "${rows[@]}" --to $runs/report
"${PYTHON:-python}" studies/take.py $runs/report results/digits
