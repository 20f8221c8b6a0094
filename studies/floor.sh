#!/usr/bin/env bash
# FLOOR on digits, without one of its parts each, and with those that it has lost: `make -C studies floor`.
# Eight seeds on which nothing was chosen: what it has lost was so decided by the figures of seeds 0 to 10.
set -euo pipefail
seeds="${SEEDS:-11 12 13 14 15 16 17 18}"
runs=runs/floor-digits
floor="method=floor method.augmentation=cutout"

# name | label | words
rows="
pgd_at|PGD-AT|method=pgd_at
floor|FLOOR|$floor
without-radius|FLOOR without the distribution (FairAT)|$floor method.radius=0
without-hard|FLOOR without hard examples (FAAL, radius .1)|$floor method.hard_fraction=0
with-memory|FLOOR with memory .9|$floor method.memory=0.9
with-fawa|FLOOR with FAWA|$floor averaging=fawa
with-awp-head|FLOOR with AWP and the balanced head|$floor awp=awp head=balanced
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
