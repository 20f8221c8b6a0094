#!/usr/bin/env bash
# Is bf16 paid for with robustness? The same trainings in float32, in bf16, and in bf16 with the attack crafted in float32.
#   studies/precision.sh digits | cifar10 (ROOT=FOLDER holds cifar-10-batches-py)
set -euo pipefail
PYTHON=${PYTHON:-python}
data=$1
case $data in
digits) words="data=digits"; seeds="0 1 2 3 4"; methods="pgd_at trades"; kinds="float32 bfloat16 crafted" ;;
cifar10) words="data=cifar10 data.root=$ROOT data.train_size=2500 data.val_per_class=30 data.test_size=1000 model=preactresnet_tiny
  model.width=8 attack=pgd7 optim=onecycle data.batch_size=64 trainer.max_epochs=25"; seeds="0 1 2"; methods="pgd_at"; kinds="float32 bfloat16" ;;
*) echo "error: $data is unknown: digits or cifar10" >&2; exit 2 ;;
esac
runs=runs/precision-$data
shown=()
for method in $methods; do
  case $method in pgd_at) label=PGD-AT ;; *) label=${method^^} ;; esac
  for kind in $kinds; do
    case $kind in
    float32) precision="trainer.precision=32-true"; title="float32" ;;
    bfloat16) precision="trainer.precision=bf16-mixed"; title="bf16" ;;
    crafted) precision="trainer.precision=bf16-mixed attack.precision=float32"; title="bf16, attack in float32" ;;
    esac
    for seed in $seeds; do
      # shellcheck disable=SC2086
      "$PYTHON" -m fairat_lightning $words method=$method $precision seed=$seed hydra.run.dir=$runs/$method-$kind-$seed
      shown+=("$label, $title=$runs/$method-$kind-$seed")
    done
  done
done
"$PYTHON" -m fairat_lightning.report "${shown[@]}" --to "$runs/report"
"$PYTHON" studies/take.py "$runs/report" "results/precision-$data"
