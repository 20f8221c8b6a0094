#!/usr/bin/env bash
# FLOOR on digits as it was until 0.3, without one of its parts each, and with two of 0.2: `make -C studies floor`.
# Eight seeds on which nothing was chosen: DAFA's margins, AWP and the head were left out on seeds 0 to 2.
set -euo pipefail
seeds="${SEEDS:-3 4 5 6 7 8 9 10}"
runs=runs/floor-digits
floor="method=floor method.memory=0.9 averaging=fawa method.augmentation=cutout"

# name | label | words
rows="
pgd_at|PGD-AT|method=pgd_at
light|FLOOR|$floor
faal|FAAL, radius .1, memory .9|method=faal method.radius=0.1 method.memory=0.9
light-radius|FLOOR without the distribution (FAAL)|$floor method.radius=0
light-memory|FLOOR without memory|$floor method.memory=0
light-hard|FLOOR without hard examples|$floor method.hard_fraction=0
light-averaging|FLOOR without FAWA|$floor averaging=none
floor|FLOOR with AWP and the balanced head|$floor awp=awp head=balanced
"
arguments=()
while IFS='|' read -r name label words; do
  [ -n "$name" ] || continue
  # shellcheck disable=SC2086
  ${PYTHON:-python} -m fairat_lightning -m trainer=cpu trainer.precision=32-true data=digits $words \
    "seed=${seeds// /,}" "hydra.sweep.dir=$runs" "hydra.sweep.subdir=$name-s\${seed}"
  for seed in $seeds; do arguments+=("$label=$runs/$name-s$seed"); done
done <<<"$rows"
${PYTHON:-python} -m fairat_lightning.report "${arguments[@]}" --to $runs/report
"${PYTHON:-python}" studies/take.py $runs/report results/floor-digits
