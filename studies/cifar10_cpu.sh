#!/usr/bin/env bash
# CIFAR-10 at a CPU's size, one seed. `make -C studies cifar10 ROOT=FOLDER` runs it; FOLDER holds cifar-10-batches-py.
set -euo pipefail
runs=runs/cifar10_cpu
run() { "${PYTHON:-python}" -m fairat_lightning trainer=cpu experiment=cifar10_cpu "data.root=$ROOT" "hydra.run.dir=$runs/$1" "${@:2}"; }
finetune() { run "$1" method=faal init_from="$runs/pgd_at" optim=multistep optim.lr=0.01 'optim.milestones=[0.5]' trainer.max_epochs=2 "${@:2}"; }

run pgd_at method=pgd_at
finetune faal-r0.5 method.radius=0.5
finetune faal-r0 method.radius=0
run fairat-hard method=fairat method.augmentation=cutout
run fairat-random method=fairat method.augmentation=cutout method.subset=random
finetune faal-r0.1 method.radius=0.1

"${PYTHON:-python}" -m fairat_lightning.report --to $runs/report \
  "PGD-AT, 10 epochs=$runs/pgd_at" "PGD-AT, 2 more epochs=$runs/faal-r0" \
  "FAAL, 2 more epochs, radius 0.1=$runs/faal-r0.1" "FAAL, 2 more epochs, radius 0.5=$runs/faal-r0.5" \
  "FairAT, cutout on the hard 30 %=$runs/fairat-hard" "FairAT, cutout on a random 30 %=$runs/fairat-random"
"${PYTHON:-python}" studies/take.py $runs/report results/cifar10_cpu
