#!/usr/bin/env bash
# Every method on the embedded digits under one protocol, from scratch, 30 epochs, three seeds, the highest worst class first:
# `make -C studies leaderboard`. On CIFAR-10 it is `reproduce table=leaderboard`.
# Every value is its method's own default, but for CFOL's eta, which follows the size of the set (times images seen as published).
# A finished run is skipped, so a stopped study goes on.
set -euo pipefail
seeds="${SEEDS:-0 1 2}"
runs=runs/leaderboard-digits

# name | label | words
rows="
pgd_at|PGD-AT|method=pgd_at
trades|TRADES|method=trades
mart|MART|method=mart
ema|PGD-AT, EMA|method=pgd_at averaging=ema
swa|PGD-AT, SWA|method=pgd_at averaging=swa
fawa|PGD-AT, FAWA|method=pgd_at averaging=fawa
awp|PGD-AT, AWP|method=pgd_at awp=awp
balanced|PGD-AT, balanced head|method=pgd_at head=balanced
fairat|FairAT|method=fairat method.augmentation=cutout
faal|FAAL|method=faal
frl|FRL (TRADES)|method=frl
bat|BAT (TRADES)|method=bat
wat|WAT (TRADES)|method=wat
cfa|CFA (AT, FAWA)|method=cfa
dafa|DAFA (TRADES)|method=dafa
cfol|CFOL (AT)|method=cfol method.eta=0.0015
csr|CSR (TRADES)|method=csr
fair_tat|FAIR-TAT (AT, FAWA)|method=fair_tat
codat|CODAT (AT)|method=codat
fair_ard|Fair-ARD (AT)|method=fair_ard
absld|ABSLD|method=absld
ham|HAM (AT)|method=ham
trix|TRIX (AT)|method=trix
variance|Variance penalty (AT)|method=variance
decosam|PGD-AT, then DecoSAM|experiment=decosam
floor|FLOOR|method=floor method.augmentation=cutout
"
arguments=()
for seed in $seeds; do
  while IFS='|' read -r name label words; do
    [ -n "$name" ] || continue
    extra=()
    [[ "$name" = fair_ard || "$name" = absld ]] && extra+=("method.teacher=$runs/pgd_at-s$seed")
    [ "$name" = decosam ] && extra+=("init_from=$runs/pgd_at-s$seed" optim.lr=0.01 trainer.max_epochs=1) # one epoch at its own learning rate
    # shellcheck disable=SC2086
    ${PYTHON:-python} -m fairat_lightning trainer=cpu data=digits trainer.precision=32-true $words "${extra[@]}" \
      "seed=$seed" "hydra.run.dir=$runs/$name-s$seed"
  done <<<"$rows"
done
while IFS='|' read -r name label words; do
  [ -n "$name" ] || continue
  for seed in $seeds; do arguments+=("$label=$runs/$name-s$seed"); done
done <<<"$rows"
${PYTHON:-python} -m fairat_lightning.report "${arguments[@]}" --sort --to $runs/report
"${PYTHON:-python}" studies/take.py $runs/report results/leaderboard-digits
