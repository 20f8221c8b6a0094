#!/usr/bin/env bash
# Every method under one protocol, three seeds, the highest worst class first: `make -C studies leaderboard ROOT=FOLDER`.
#   studies/leaderboard.sh digits            all from scratch on the embedded digits, 30 epochs
#   studies/leaderboard.sh cifar10           all fine-tune one PGD-AT base a seed for 3 epochs; ROOT holds cifar-10-batches-py
# Every value is its method's own default, but for what a set of this size must change: CFOL's eta (times images seen as published) and,
# on CIFAR-10, FAWA's threshold, SWA's start (three epochs have no last quarter) and cutout in place of RandAugment, as on digits.
# A finished run is skipped, so a stopped study goes on.
set -euo pipefail
ROOT="${ROOT:-}"
set="$1"
seeds="${SEEDS:-0 1 2}"
runs="runs/leaderboard-$set"
command="${PYTHON:-python} -m fairat_lightning trainer=cpu"
if [ "$set" = digits ]; then
  protocol=(data=digits trainer.precision=32-true)
  eta=0.0015 threshold=0.2 start=0.75
else
  [ -d "$ROOT" ] || { echo "ROOT=FOLDER must hold cifar-10-batches-py" >&2; exit 2; }
  protocol=(data=cifar10 "data.root=$ROOT" data.train_size=2500 data.val_per_class=30 data.test_size=1000 model=preactresnet_tiny model.width=8
    attack=pgd7 optim=onecycle optim.lr=0.1 data.batch_size=64 trainer.precision=bf16-mixed trainer.max_epochs=25)
  eta=0.0053 threshold=0.05 start=0.34
fi
fawa="averaging.threshold=$threshold"

# name | label | words
rows="
pgd_at|PGD-AT|method=pgd_at
trades|TRADES|method=trades
mart|MART|method=mart
ema|PGD-AT, EMA|method=pgd_at averaging=ema
swa|PGD-AT, SWA|method=pgd_at averaging=swa averaging.start=$start
fawa|PGD-AT, FAWA|method=pgd_at averaging=fawa $fawa
awp|PGD-AT, AWP|method=pgd_at awp=awp
balanced|PGD-AT, balanced head|method=pgd_at head=balanced
fairat|FairAT|method=fairat method.augmentation=cutout
faal|FAAL|method=faal
frl|FRL (TRADES)|method=frl
bat|BAT (TRADES)|method=bat
wat|WAT (TRADES)|method=wat
cfa|CFA (AT, FAWA)|method=cfa $fawa
dafa|DAFA (TRADES)|method=dafa
cfol|CFOL (AT)|method=cfol method.eta=$eta
csr|CSR (TRADES)|method=csr
fair_tat|FAIR-TAT (AT, FAWA)|method=fair_tat $fawa
codat|CODAT (AT)|method=codat
fair_ard|Fair-ARD (AT)|method=fair_ard
absld|ABSLD|method=absld
ham|HAM (AT)|method=ham
trix|TRIX (AT)|method=trix
variance|Variance penalty (AT)|method=variance
decosam|PGD-AT, then DecoSAM|experiment=decosam
floor|FLOOR (AT, AWP, FAWA)|method=floor method.augmentation=cutout $fawa
"
arguments=()
first() { # the base of CIFAR-10's fine-tunes, and digits' PGD-AT, which is the teacher of Fair-ARD and ABSLD and DecoSAM's base too
  [ "$set" = digits ] && echo "$runs/pgd_at-s$1" || echo "$runs/base-s$1"
}
for seed in $seeds; do
  $command "${protocol[@]}" method=pgd_at "seed=$seed" "hydra.run.dir=$(first "$seed")"
  while IFS='|' read -r name label words; do
    [ -n "$name" ] || continue
    extra=()
    [[ "$name" = fair_ard || "$name" = absld ]] && extra+=("method.teacher=$(first "$seed")")
    if [ "$name" = decosam ]; then # one epoch at its own learning rate
      extra+=("init_from=$(first "$seed")" optim.lr=0.01 trainer.max_epochs=1)
      [ "$set" = cifar10 ] && extra+=("~optim.milestones")
    elif [ "$set" = cifar10 ]; then
      extra+=("init_from=$(first "$seed")" optim.lr=0.02 trainer.max_epochs=3)
    fi
    # shellcheck disable=SC2086
    $command "${protocol[@]}" $words "${extra[@]}" "seed=$seed" "hydra.run.dir=$runs/$name-s$seed"
  done <<<"$rows"
done
while IFS='|' read -r name label words; do
  [ -n "$name" ] || continue
  for seed in $seeds; do arguments+=("$label=$runs/$name-s$seed"); done
done <<<"$rows"
[ "$set" = cifar10 ] && for seed in $seeds; do arguments+=("PGD-AT base, 25 epochs=$runs/base-s$seed"); done
${PYTHON:-python} -m fairat_lightning.report "${arguments[@]}" --sort --to "$runs/report"
"${PYTHON:-python}" studies/take.py "$runs/report" "results/leaderboard-$set"
