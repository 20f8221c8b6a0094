import csv
import json

import pytest
import torch
from helpers import network_weights
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.methods import AdversarialTraining
from fairat_lightning.objectives import AT


def bare(**kwargs):
    return AdversarialTraining(nn.Flatten(), **({"classes": 3, "attack": PGD(0.1, 1), "objective": AT(), "optim": None} | kwargs))


def test_wrong_values_are_named():
    for wrong, word in (({"select": "best"}, "select=best"), ({"classes": 1}, "classes=1"), ({"classes": ["a"]}, "classes=")):
        with pytest.raises(ValueError, match=word):
            bare(**wrong)
    with pytest.raises(ValueError, match="Indexed"):
        bare().training_step((torch.rand(1, 3), torch.zeros(1)), 0)


def test_an_epoch_is_judged_as_it_trains_and_a_test_exactly():
    method = AdversarialTraining(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), classes=3, attack=PGD(0.1, 1), objective=AT(), optim=None
    ).eval()
    seen = set()
    method.net.register_forward_hook(lambda _, __, logits: seen.add(logits.dtype))
    batch = torch.rand(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6)
    for step, inside in ((method.validation_step, torch.bfloat16), (method.test_step, torch.float32)):
        seen.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            step(batch, 0)
        assert seen == {inside}


GATE = "averaging=fawa averaging.threshold=0.5 averaging.start=0 trainer.max_epochs=4 optim.lr=0.1 attack.eps=0.01 "
GATE += "data.train_size=200"


@pytest.mark.parametrize("rule", ["method=frl", "method=wat", GATE])  # the gate lets the second epoch in by all images alone
def test_rules_that_learn_from_validation_see_all_of_it(launch, rule):
    """The weights are the same whichever part of the split the epochs are judged by; the figures of the epochs are not."""
    few, whole = (launch(*rule.split(), "select=last", f"data.monitor_size={n}", folder=n)[0] for n in ("4", "null"))
    a, b = network_weights(few), network_weights(whole)
    assert all(torch.equal(a[k], b[k]) for k in a)
    facts = [json.loads((folder / "run.json").read_text()) for folder in (few, whole)]
    assert facts[0]["validated_on"] < facts[1]["validated_on"] and facts[0]["validated_in"] == "float32 without TF32"


def test_the_three_yamls_of_plain_training_differ_in_the_objective_alone_and_an_explicit_one_wins(launch):
    a = network_weights(launch("method=pgd_at", "objective=trades", folder="a")[0])
    b = network_weights(launch("method=trades", folder="b")[0])
    c = network_weights(launch("method=mart", "objective=trades", folder="c")[0])
    d = network_weights(launch("method=pgd_at", folder="d")[0])
    assert all(torch.equal(a[k], b[k]) and torch.equal(a[k], c[k]) for k in a)
    assert any(not torch.equal(a[k], d[k]) for k in a)


@pytest.mark.parametrize("select", ["sum", "worst", "average"])
def test_the_selected_weights_are_those_of_the_best_validation_epoch(launch, select):
    folder, _ = launch("method=pgd_at", "trainer.max_epochs=4", "data.train_size=200", f"select={select}", "optim.lr=0.05")
    rows = list(csv.DictReader((folder / "history.csv").open()))
    scores = []
    for row in rows:
        per_class = [float(v) for k, v in row.items() if k.startswith("val/robust_class/")]
        average, worst = sum(per_class) / len(per_class), min(per_class)
        assert float(row["val/robust"]) == pytest.approx(average) and float(row["val/robust_worst"]) == worst
        scores.append({"sum": average + worst, "worst": worst, "average": average}[select])
    assert [float(row["val/select"]) for row in rows] == pytest.approx(scores)
    best = max(range(4), key=lambda k: (round(scores[k], 9), -k))
    assert torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == best
    assert json.loads((folder / "run.json").read_text())["selected_epoch"] == best


def test_the_last_epoch_is_kept_where_it_is_asked_for(launch):
    """Whatever validation says: with "worst" another epoch of the same training is the best."""
    words = ("method=pgd_at", "trainer.max_epochs=4", "data.train_size=200", "optim.lr=0.05")
    best, last = (launch(*words, f"select={select}", folder=select)[0] for select in ("worst", "last"))
    assert json.loads((best / "run.json").read_text())["selected_epoch"] < 3
    facts = json.loads((last / "run.json").read_text())
    assert (facts["selected_epoch"], facts["selected_by"]) == (3, "last")
    kept = torch.load(last / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    end = network_weights(best)
    assert all(torch.equal(kept[f"net.{name}"], value) for name, value in end.items())
    assert (last / "metrics.json").read_text() != (best / "metrics.json").read_text()


@pytest.mark.parametrize("method", ["pgd_at", "frl"])  # FRL learns from validation after every epoch
def test_validation_every_so_many_epochs_and_after_the_last(launch, method):
    words = (f"method={method}", "trainer.max_epochs=4", "trainer.precision=64-true")
    often, seldom = (launch(*words, f"val_every={n}", f"select={s}", folder=f"{n}")[0] for n, s in ((1, "last"), (3, "last")))
    rows, all_rows = (list(csv.DictReader((folder / "history.csv").open())) for folder in (seldom, often))
    assert [bool(row["val/robust"]) for row in rows] == [False, False, True, True]
    for row, other in zip(rows, all_rows, strict=True):
        assert all(value == other[key] for key, value in row.items() if value and "seconds" not in key)
    a, b = network_weights(often), network_weights(seldom)
    assert all(torch.equal(a[k], b[k]) for k in a), "when it is validated must not change what is trained"


def test_the_best_of_the_validated_epochs_is_kept(launch):
    folder, _ = launch("trainer.max_epochs=5", "val_every=2", "data.train_size=200", "optim.lr=0.05")
    scores = {int(r["epoch"]): float(r["val/select"]) for r in csv.DictReader((folder / "history.csv").open()) if r["val/select"]}
    assert set(scores) == {1, 3, 4}
    assert json.loads((folder / "run.json").read_text())["selected_epoch"] == max(scores, key=scores.__getitem__)


def test_metrics_do_not_depend_on_the_evaluation_batch_size(launch):
    a = launch("method=pgd_at", "data.eval_batch_size=7", "trainer.precision=64-true", folder="a")[1]
    b = launch("method=pgd_at", "data.eval_batch_size=40", "trainer.precision=64-true", folder="b")[1]
    assert a == b


def test_ema_is_what_is_selected_and_tested(launch):
    folder, _ = launch("method=pgd_at", "averaging=ema", "averaging.decay=0.9")
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    average, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert any(not torch.equal(average[k], current[k]) for k in average if "conv" in k)
    plain = network_weights(launch("method=pgd_at", folder="plain")[0])
    assert all(torch.equal(plain[k], current[f"net.{k}"]) for k in plain), "averaging must not touch training"


def test_half_precision_trains_and_evaluates_in_float32(launch):
    folder, metrics = launch("method=faal", "trainer.precision=bf16-mixed", "model.channels_last=true")
    assert metrics["clean"]["average"] > 0
    assert all(v.dtype != torch.bfloat16 for v in network_weights(folder).values())
