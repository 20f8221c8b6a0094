import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL
from torch import nn

from fairat_lightning.commands import cli
from fairat_lightning.commands.train import main as train
from fairat_lightning.head import BalancedHead, balanced, last_layer
from fairat_lightning.training import run as runs


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_rows_are_brought_to_the_mean_norm(strength):
    weight = torch.randn(5, 7).double()
    norms = np.linalg.norm(weight.numpy(), axis=1)
    expected = weight.numpy() * ((norms.mean() / norms) ** strength)[:, None]
    np.testing.assert_allclose(balanced(weight, strength).numpy(), expected)
    if strength == 1:
        assert balanced(weight, 1.0).norm(dim=1).std() < 1e-12
    if strength == 0:
        assert torch.equal(balanced(weight, strength), weight)
    assert balanced(torch.zeros(3, 4), 1.0).isfinite().all()


def test_the_strength_of_the_highest_score_is_taken_and_the_bias_kept():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    original = net[2].weight.detach().clone(), net[2].bias.detach().clone(), net[0].weight.detach().clone()
    scores = iter([0.3, 0.5, 0.4])
    found = BalancedHead([1.0, 0.5]).fit(net, 4, lambda: next(scores))
    assert found == {"strength": 0.5, "scores": {"0.0": 0.3, "0.5": 0.5, "1.0": 0.4}}
    torch.testing.assert_close(net[2].weight.detach(), balanced(original[0], 0.5))
    assert torch.equal(net[2].bias, original[1]) and torch.equal(net[0].weight, original[2])


def test_within_autocast_every_strength_is_scored_with_its_own_weights():
    """Autocast's cache of casts is on in a loop of one's own; Lightning switches it off."""
    net, x, seen = nn.Linear(3, 4), torch.rand(5, 3), []

    def score():
        with torch.enable_grad():  # what autocast keeps are the casts of a forward that is to have a gradient
            seen.append(net(x).detach().clone())
        return float(len(seen))

    with torch.autocast("cpu", torch.bfloat16):
        BalancedHead([0.5, 1.0]).fit(net, 4, score)
        chosen = net(x)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2]) and torch.equal(chosen, seen[2])


def test_a_tie_leaves_the_layer_as_it_is_bit_for_bit():
    net = nn.Linear(3, 4)
    before = net.weight.detach().clone()
    assert BalancedHead([0.5, 1.0]).fit(net, 4, lambda: 0.25)["strength"] == 0
    assert torch.equal(net.weight, before)


def test_the_last_linear_layer_or_a_clear_word():
    net = nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.Linear(5, 4), nn.Flatten()))
    assert last_layer(net, 4) is net[1][0]
    for wrong in (nn.Conv2d(1, 4, 1), nn.Linear(3, 5), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))):
        with pytest.raises(ValueError, match="head=balanced needs"):
            last_layer(wrong, 4)


@pytest.mark.parametrize("strengths", [[], [0.0], [1.5], ["full"], 1.0, [True]])
def test_wrong_strengths_are_named(strengths):
    with pytest.raises(ValueError, match="head.strengths"):
        BalancedHead(strengths)


def test_one_strength_is_forced_whatever_validation_says():
    net = nn.Linear(3, 4)
    before, scores = net.weight.detach().clone(), iter([0.9, 0.1, 0.2])
    found = BalancedHead([0.5], strength=1.0).fit(net, 4, lambda: next(scores))
    assert found == {"strength": 1.0, "scores": {"0.0": 0.9, "0.5": 0.1, "1.0": 0.2}}
    torch.testing.assert_close(net.weight.detach(), balanced(before, 1.0))
    for wrong in (0, 1.5, "all", True):
        with pytest.raises(ValueError, match="head.strength="):
            BalancedHead([0.5], strength=wrong)


TRAINED = ("method=pgd_at", "data.train_size=200", "trainer.max_epochs=4", "optim.lr=0.02", "optim.milestones=[]")


def test_a_run_with_it_tests_the_best_balanced_weights_and_says_the_strength(launch):
    plain, _ = launch(*TRAINED, folder="plain")
    folder, metrics = launch(*TRAINED, "head=balanced", folder="balanced")
    facts = json.loads((folder / "run.json").read_text())["head"]
    assert facts["scores"][str(facts["strength"])] == max(facts["scores"].values())
    before, after = (torch.load(f / "checkpoints" / "best.ckpt", weights_only=True) for f in (plain, folder))
    names = [name for name in before["state_dict"] if name.startswith("net.")]
    (changed,) = [n for n in names if not torch.equal(before["state_dict"][n], after["state_dict"][n])] or [
        "net.model.linear.weight"
    ]
    expected = balanced(before["state_dict"][changed], facts["strength"])
    torch.testing.assert_close(after["state_dict"][changed], expected)
    assert after["head"] == facts
    assert metrics["pgd20"]["average"] > 0


def test_a_run_stopped_after_balancing_does_not_balance_twice(launch, monkeypatch):
    whole, metrics = launch(*TRAINED, "head=balanced", folder="whole")
    written = runs.journal.write

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.journal, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        launch(*TRAINED, "head=balanced", folder="parts")
    monkeypatch.setattr(runs.journal, "write", written)
    parts, again = launch(*TRAINED, "head=balanced", folder="parts")
    assert again == metrics
    a, b = (torch.load(f / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"] for f in (whole, parts))
    assert all(torch.allclose(a[n], b[n], rtol=0, atol=0, equal_nan=True) for n in a)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A trained run."""
    place = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("sys.argv", ["x", "hydra.run.dir=base", *SMALL, *TRAINED])
        train()
    return place / "base"


@pytest.fixture
def command(monkeypatch, base, tmp_path):
    """The command in a folder with a copy of the run."""
    shutil.copytree(base, tmp_path / "base")
    monkeypatch.chdir(tmp_path)

    def command(*words):
        monkeypatch.setattr("sys.argv", ["x", *words])
        cli.start("balance", "help")

    return command


def test_the_command_balances_a_run_or_any_state_dict(command, tmp_path, capsys):
    command("checkpoint=base", "head.strengths=[1.0]", "select=average")
    assert "balanced with strength" in capsys.readouterr().out
    made = torch.load(tmp_path / "base" / "checkpoints" / "balanced.ckpt", weights_only=True)
    state = {name.removeprefix("net."): value for name, value in made["state_dict"].items()}
    best = torch.load(tmp_path / "base" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    head = "model.linear.weight"
    torch.testing.assert_close(state[head], balanced(best[f"net.{head}"], made["head"]["strength"]))
    torch.save({n.removeprefix("net."): v for n, v in best.items() if n.startswith("net.")}, "plain.pt")
    words = ("checkpoint=plain.pt", "data=synthetic", "model.width=4", "attack.steps=2", "to=out.pt", "head.strengths=[1.0]")
    command(*words, "select=average")
    assert set(torch.load("out.pt", weights_only=True)) == set(state)


def test_a_disk_that_is_full_at_the_end_is_one_line_and_code_2(command, monkeypatch, capsys):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fairat_lightning.training.balance.write", full)
    with pytest.raises(SystemExit) as stopped:
        command("checkpoint=base", "to=out.pt", "head.strengths=[1.0]")
    assert stopped.value.code == 2 and capsys.readouterr().err == "error: to=out.pt cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    "words,message",
    [
        (("checkpoint=base", "select=fair"), "select=fair"),
        (("checkpoint=base", "head.strengths=[]"), "head.strengths"),
        (("checkpoint=base", "to=base"), "to=base"),
        (("checkpoint=base", "to=nowhere/x.pt"), "to=nowhere/x.pt"),
        (("checkpoint=base/checkpoints/last.ckpt", "to=base/checkpoints/last.ckpt"), "the checkpoint itself"),
        (("checkpoint=missing.pt",), "missing.pt"),
        (("checkpoint=base", "to=base/checkpoints/best.ckpt", "overwrite=true"), "the checkpoint itself"),
        (("checkpoint=base", "to=base/config.yaml"), "exists"),
        (("checkpoint=base", "to=5"), "to=5"),
        (("checkpoint=base", f"to={'a' * 250}"), "cannot be written: File name too long"),  # beside it is written first
        (("checkpoint=base", "head=none"), "head=none"),
        ((), None),
    ],
)
def test_wrong_words_are_one_line_and_code_2(command, capsys, words, message):
    before = sorted(p for p in Path(".").rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        command(*words)
    assert stopped.value.code == 2
    if message:
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert sorted(p for p in Path(".").rglob("*")) == before


def test_the_strength_is_chosen_on_all_validation_images(launch):
    words = (*TRAINED, "head=balanced", "select=last")
    few, whole = (launch(*words, f"data.monitor_size={size}", folder=size)[0] for size in ("4", "null"))
    heads = [json.loads((folder / "run.json").read_text())["head"] for folder in (few, whole)]
    assert heads[0] == heads[1]
