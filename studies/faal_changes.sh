#!/usr/bin/env bash
# What changes FAAL's gain at the smoke budget: its radius, memory, objective and length. `make -C studies faal-changes ROOT=FOLDER`,
# after `reproduce table=faal 'seeds=[0,1]'`, whose runs it uses.
set -euo pipefail
bases=runs/reproduce/faal-smoke runs=runs/faal_changes
python="${PYTHON:-python} -m fairat_lightning"
common="experiment=faal_preactresnet18 trainer=cpu data.train_size=10000 data.val_per_class=50 data.test_size=1000 data.batch_size=64
  model=preactresnet_tiny model.width=8 attack=n_fgsm optim.lr=0.02"

# name | label | words
rows="
r0.1|FAAL, radius 0.1|method.radius=0.1
memory|FAAL, memory 0.9|method.memory=0.9
long|FAAL, 6 epochs|trainer.max_epochs=6
trades|FAAL, TRADES inside and out|objective=trades
plain|TRADES, 2 epochs, no weights|objective=trades method.radius=0
"
arguments=()
for seed in 0 1; do
  arguments+=("PGD-AT, 2 more epochs=$bases/more-s$seed" "FAAL, radius 0.5=$bases/faal-s$seed" "FAAL, radius 1=$bases/faal_r1-s$seed")
  while IFS='|' read -r name label words; do
    [ -n "$name" ] || continue
    # shellcheck disable=SC2086
    $python $common trainer.max_epochs=2 $words "data.root=$ROOT" "init_from=$bases/pgd_at-s$seed" "seed=$seed" \
      "hydra.run.dir=$runs/$name-s$seed"
    arguments+=("$label=$runs/$name-s$seed")
  done <<<"$rows"
done
$python.report "${arguments[@]}" --to $runs/report
"${PYTHON:-python}" studies/take.py $runs/report results/faal-changes
