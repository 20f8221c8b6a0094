#!/usr/bin/env bash
# FLOOR on digits without one of its parts each, three seeds: `make -C studies floor`, after leaderboard.sh digits, whose runs it uses.
set -euo pipefail
seeds="${SEEDS:-0 1 2}"
runs=runs/leaderboard-digits
rows="
awp|without AWP|awp=none
averaging|without FAWA|averaging=none
hard|without hard examples|method.hard_fraction=0
radius|without the distribution (FAAL)|method.radius=0
memory|without memory|method.memory=0
head|without the balanced head|head=none
"
arguments=()
for seed in $seeds; do arguments+=("PGD-AT=$runs/pgd_at-s$seed"); done
for seed in $seeds; do arguments+=("FLOOR=$runs/floor-s$seed"); done
while IFS='|' read -r name label words; do
  [ -n "$name" ] || continue
  # shellcheck disable=SC2086
  ${PYTHON:-python} -m fairat_lightning -m trainer=cpu trainer.precision=32-true data=digits method=floor method.augmentation=cutout $words \
    "seed=${seeds// /,}" "hydra.sweep.dir=$runs" "hydra.sweep.subdir=floor-$name-s\${seed}"
  for seed in $seeds; do arguments+=("FLOOR $label=$runs/floor-$name-s$seed"); done
done <<<"$rows"
${PYTHON:-python} -m fairat_lightning.report "${arguments[@]}" --sort --to $runs/report-floor
"${PYTHON:-python}" studies/take.py $runs/report-floor results/floor-digits
