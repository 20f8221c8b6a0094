"""A checkpoint of another program, brought to every command: what is taken out of it, and by which normalisation."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
import yaml
from helpers import SMALL, call, network_weights, other, refused
from safetensors.torch import load_file

from fairat_lightning.config import loading
from fairat_lightning.data import DataModule, sets
from fairat_lightning.models import preactresnet_tiny
from fairat_lightning.training import brought

OURS = ("model=preactresnet_tiny", "model.width=4", "data=synthetic")
QUICK = (*OURS, "samples_per_class=2", "attack.steps=1")
NOTHING = ("optim.lr=1e-9", "trainer.max_epochs=1")  # weights that stay what they were


def plain(width: int = 4):
    return preactresnet_tiny(num_classes=4, in_channels=1, mean=[0.0], std=[1.0], width=width).model


@pytest.fixture(scope="session")
def theirs():
    """A network that others have trained on the synthetic images as they are, in [0,1]: its state dict."""
    torch.manual_seed(0)
    data = DataModule(partial(sets.synthetic, num_classes=4, train_per_class=100, test_per_class=9), image_size=8)
    data.prepare()
    net = plain()
    optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for _ in range(8):
        for chosen in torch.randperm(len(data.train)).split(32):
            loss = F.cross_entropy(net(data.train.pixels[chosen] / 255), data.train.targets[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.state_dict()


@pytest.fixture
def here(theirs, tmp_path):
    """A folder with files as others write them."""
    behind = {f"module.{name}": value for name, value in theirs.items()}
    front = {"module.0.mean": torch.tensor([0.1]), "module.0.std": torch.tensor([0.3])}
    files = {
        "plain.pt": {"state_dict": behind, "args": argparse.Namespace(lr=0.1), "epoch": 9},
        "front.pt": front | {f"module.1.{name}": value for name, value in theirs.items()},
        "both.pt": {"model": theirs, "model_ema": {name: value + 0 * value for name, value in plain().state_dict().items()}},
        "order.pt": theirs | {name: theirs[name].roll(1, 0) for name in ("linear.weight", "linear.bias")},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    return tmp_path


def record(folder: Path, name: str = "run.json"):
    return yaml.safe_load((folder / name).read_text())


def test_the_clean_accuracy_decides_and_is_kept(here, monkeypatch, capsys):
    words = ("checkpoint=plain.pt", *QUICK)
    code, out, err = call(monkeypatch, capsys, here, *words, command="evaluate")
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("normalisation: "))
    assert line.startswith("normalisation: none 100.0 %, synthetic's ") and ": none is used" in line
    assert "weights: state_dict.module of plain.pt" in out and "warning" not in out
    place = here / "runs/audit-plain/evaluation/quick"
    config, facts = record(place, "config.yaml"), record(place)["checkpoint"]
    assert (config["model"]["mean"], config["model"]["std"]) == ([0.0], [1.0]) == (facts["mean"], facts["std"])
    assert facts["tried"]["none"] == facts["clean_accuracy"] == 1.0 > facts["tried"]["synthetic's"]
    assert facts["path"] == "plain.pt" and facts["normalisation_by"] == "clean accuracy on 80 validation images"
    assert not {"key", "normalisation", "mean_given"} & config.keys()
    monkeypatch.setattr(loading, "_decide", None)  # and it is not asked again
    code, out, err = call(monkeypatch, capsys, here, *words, command="evaluate")
    assert code == 0 and "This evaluation is finished" in out, err


def test_the_command_says_it(here, monkeypatch, capsys):
    monkeypatch.setattr(loading, "_decide", None)
    for k, words in enumerate((["normalisation=none"], ["normalisation=[0,1]"], ["model.mean=[0.0]", "model.std=[1.0]"])):
        code, out, err = call(monkeypatch, capsys, here, "checkpoint=plain.pt", *QUICK, *words, f"name=a{k}", command="evaluate")
        facts = record(here / f"runs/audit-plain/evaluation/a{k}")["checkpoint"]
        assert code == 0 and facts["normalisation_by"] == "the command" and facts["clean_accuracy"] == 1.0, err
    suggested = ["model.mean=[0.5]", "model.std=[0.25]"]  # what the data set suggests is the command's word too
    assert call(monkeypatch, capsys, here, "checkpoint=plain.pt", *QUICK, *suggested, "name=b", command="evaluate")[0] == 0
    assert record(here / "runs/audit-plain/evaluation/b")["checkpoint"]["mean"] == [0.5]


def test_a_layer_in_front_becomes_the_network_s_own(here, monkeypatch, capsys):
    monkeypatch.setattr(loading, "_decide", None)
    code, out, err = call(monkeypatch, capsys, here, "checkpoint=front.pt", *OURS, "to=out", command="export")
    assert code == 0 and "normalisation: mean [0.1], std [0.3], as the file says" in out, err
    assert load_file(here / "out/model.safetensors")["mean"].flatten().tolist() == pytest.approx([0.1])
    assert "0.1\n" in (here / "out/README.md").read_text()
    words = ("checkpoint=out/model.safetensors", *QUICK)  # an export of ours states its own, and asks nothing
    code, out, err = call(monkeypatch, capsys, here, *words, command="evaluate")
    assert code == 0 and "normalisation: mean [0.1], std [0.3], as the file says" in out and "weights:" not in out, err
    assert "checkpoint" not in record(here / "runs/audit-model/evaluation/quick")
    code, err = other(monkeypatch, capsys, here, "evaluate", *words, "model.mean=[0.2]")
    refused(code, err, "was trained with mean [0.1], std [0.3]: set model.mean=[0.1] model.std=[0.3]")
    words = ("checkpoint=front.pt", *QUICK, "normalisation=[0.2,0.3]")  # of others' file the command knows better
    code, out, err = call(monkeypatch, capsys, here, *words, command="evaluate")
    assert code == 0 and "normalisation: as the command sets it; the file says mean [0.1], std [0.3]" in out, err


def test_the_balanced_weights_keep_it(here, monkeypatch, capsys):
    words = ("checkpoint=plain.pt", *OURS, "to=balanced.pt", "attack.steps=1")
    code, out, err = call(monkeypatch, capsys, here, *words, command="balance")
    assert code == 0 and ": none is used" in out, err
    assert torch.load(here / "balanced.pt", weights_only=True)["mean"].flatten().tolist() == [0.0]


@pytest.mark.parametrize("command", [["evaluate"], ["export", "to=model"], ["balance", "to=b.pt"]], ids=lambda c: c[0])
def test_a_file_of_no_run_needs_its_network_and_its_images(here, monkeypatch, capsys, command):
    for given, asked in (([], "model= and data="), (["data=digits"], "model="), (["model.width=8"], "data=")):
        code, err = other(monkeypatch, capsys, here, command[0], "checkpoint=plain.pt", *given, *command[1:])
        refused(code, err, f"would say its network and images: set {asked}\n")


def test_the_key_says_which(here, monkeypatch, capsys):
    code, err = other(monkeypatch, capsys, here, "evaluate", "checkpoint=both.pt", *QUICK)
    refused(code, err, "both.pt holds 2 sets of weights for this network: choose one, key=model, key=model_ema")
    code, out, err = call(monkeypatch, capsys, here, "checkpoint=both.pt", "key=model", *QUICK, command="evaluate")
    assert code == 0 and "weights: model of both.pt" in out and ": none is used" in out, err
    assert record(here / "runs/audit-both/evaluation/quick", "config.yaml")["key"] == "model"
    for word, said in {"key=5": "key=5 must be the name", "key=emma": "key=emma: it has key=model"}.items():
        refused(*other(monkeypatch, capsys, here, "evaluate", "checkpoint=both.pt", word, *QUICK), said)


def test_near_chance_is_a_warning_in_the_record(here, monkeypatch, capsys):
    words = ("checkpoint=order.pt", *QUICK, "normalisation=none")
    code, out, err = call(monkeypatch, capsys, here, *words, command="evaluate")
    assert code == 0 and out.count("warning: the clean accuracy on 80 validation images is ") == 1, err
    for part in ("near chance (25.0 %)", "architecture", "normalisation", "order of labels", "colour channels"):
        assert part in out
    facts = record(here / "runs/audit-order/evaluation/quick")
    assert facts["checkpoint"]["warning"].startswith("the clean accuracy")
    assert any(note.startswith("Warning: the clean accuracy") for note in facts["notes"])


def test_a_training_starts_from_it_and_remembers(here, launch, monkeypatch, capsys, theirs):
    words = (f"init_from={here / 'plain.pt'}", *NOTHING)
    run, _ = launch(*words)
    out = capsys.readouterr().out
    assert "init_from: normalisation: none 100.0 %" in out and ": none is used" in out
    config, facts = record(run, "config.yaml"), record(run)
    assert config["model"]["mean"] == [0.0] and config["model"]["std"] == [1.0] and "notes" not in facts
    assert facts["init_from"]["normalisation_by"].startswith("clean accuracy") and "weights" in facts["init_from"]
    assert not {"key", "normalisation"} & config.keys()
    assert torch.allclose(network_weights(run)["model.linear.weight"], theirs["linear.weight"], atol=1e-4)
    monkeypatch.setattr(loading, "_decide", None)
    launch(*words)
    assert "This run is finished" in capsys.readouterr().out
    code, out, err = call(monkeypatch, capsys, here, f"checkpoint={run}", "samples_per_class=2", command="evaluate")
    assert code == 0 and "normalisation" not in out, err


def test_a_run_that_recorded_nothing_of_its_teacher_goes_on_with_the_one_it_had(here, launch, monkeypatch):
    """0.1 took the normalisation of the configuration, and wrote down nothing."""
    words = ("method=fair_ard", f"method.teacher={here / 'plain.pt'}")
    whole, _ = launch(*words, folder="whole")
    facts = record(whole)
    facts.pop("teacher")
    (whole / "run.json").write_text(json.dumps(facts))
    (whole / "metrics.json").unlink()
    monkeypatch.setattr(loading, "_decide", None)
    built, trained = [], brought.trained
    monkeypatch.setattr(brought, "trained", lambda *a, **k: built.append(trained(*a, **k)) or built[0])
    launch(*words, folder="whole")
    begun = record(whole, "config.yaml")["model"]
    assert ([built[0][0].mean.item()], [built[0][0].std.item()]) == (begun["mean"], begun["std"])


def test_a_resumed_training_asks_nothing(here, launch, monkeypatch, capsys):
    words = (f"init_from={here / 'plain.pt'}", "method=fair_ard", f"method.teacher={here / 'both.pt'}", "key=model")
    whole, _ = launch(*words, "init_from=null", folder="whole")
    assert record(whole)["teacher"]["mean"] == [0.0] and record(whole, "config.yaml")["model"]["mean"] == [0.5]
    (whole / "metrics.json").unlink()
    monkeypatch.setattr(loading, "_decide", None)
    built, trained = [], brought.trained
    monkeypatch.setattr(brought, "trained", lambda *a, **k: built.append(trained(*a, **k)) or built[0])
    capsys.readouterr()
    launch(*words, "init_from=null", folder="whole")
    assert (built[0][0].mean.item(), built[0][0].std.item()) == (0.0, 1.0)
    assert "resumed" in (out := capsys.readouterr().out) and "normalisation" not in out
    assert record(whole)["teacher"]["mean"] == [0.0] and "teacher" not in record(whole)["resumed"][0]


def test_an_interrupted_one_keeps_what_was_found(here, launch, monkeypatch, capsys):
    words = (f"init_from={here / 'plain.pt'}", *NOTHING)
    run, _ = launch(*words)
    (run / "metrics.json").unlink()
    monkeypatch.setattr(loading, "_decide", None)
    launch(*words)
    assert record(run, "config.yaml")["model"]["mean"] == [0.0] and "tried" in record(run)["init_from"]


def test_a_recipe_s_mean_is_no_word_of_the_user(here, launch, capsys):
    recipe = ["experiment=faal_preactresnet18", "model=preactresnet_tiny", "model.width=4", "attack.steps=1"]
    launch(*recipe, *SMALL, f"init_from={here / 'plain.pt'}", "trainer.max_epochs=1")
    assert "init_from: normalisation: none 100.0 %" in capsys.readouterr().out


def test_the_words_of_a_training_win(here, monkeypatch, capsys):
    words = [*SMALL, "init_from=plain.pt", *NOTHING, "hydra.run.dir=run"]
    for k, mean in enumerate(("model.mean=[0.5]", "normalisation=[0.5,0.25]", "normalisation=synthetic")):
        code, out, err = call(monkeypatch, capsys, here, *words[:-1], mean, f"hydra.run.dir={k}")
        assert code == 0 and "is used" not in out and record(here / str(k), "config.yaml")["model"]["mean"] == [0.5], err
    code, _, err = call(monkeypatch, capsys, here, *words, "normalisation=none", "model.std=[1]")
    refused(code, err, "normalisation= sets model.mean and model.std: set either it or these, not both")
    code, _, err = call(monkeypatch, capsys, here, *words[:-1], "init_from=null", "key=model")
    refused(code, err, "key=model names weights in the file of init_from= or method.teacher=")


def test_near_chance_warns_in_a_training_s_record(here, launch, capsys):
    run, _ = launch(f"init_from={here / 'order.pt'}", *NOTHING)
    assert "init_from: warning: the clean accuracy" in capsys.readouterr().out
    assert any(note.startswith("Warning, init_from: the clean accuracy") for note in record(run)["notes"])


def test_a_run_of_ours_says_its_own(launch, capsys):
    """Nothing more than before is printed or recorded, and one under another mean brings it along."""
    base, _ = launch("trainer.max_epochs=1", "model.mean=[0.25]", folder="base")
    capsys.readouterr()
    run, _ = launch(f"init_from={base}", *NOTHING)
    assert "init_from: normalisation: mean [0.25], std [0.25], as the file says" in capsys.readouterr().out
    assert record(run, "config.yaml")["model"]["mean"] == [0.25]
    assert set(record(run)["init_from"]) == {"path", "weights"} and "notes" not in record(run)


def test_a_class_that_normalises_by_itself_is_not_asked(here, theirs, monkeypatch, capsys):
    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.0]))
            self.register_buffer("std", torch.tensor([1.0]))
            self.net = plain()

        def forward(self, x):
            return self.net((x - self.mean) / self.std)

    module = ModuleType("mypackage")
    Whole.__module__, module.Whole = "mypackage", Whole
    monkeypatch.setitem(sys.modules, "mypackage", module)
    monkeypatch.setattr(loading, "_decide", None)
    state = {f"net.{name}": value for name, value in theirs.items()}
    torch.save({"mean": torch.zeros(1), "std": torch.ones(1)} | state, here / "whole.pt")
    words = ("checkpoint=whole.pt", "model._target_=mypackage.Whole", "allow=[mypackage.]", "data=synthetic", *QUICK[3:])
    code, out, err = call(monkeypatch, capsys, here, *words, command="evaluate")
    facts = json.loads((here / "runs/audit-whole/evaluation/quick/run.json").read_text())["checkpoint"]
    assert code == 0 and facts["normalisation_by"] == "the network itself" and facts["clean_accuracy"] == 1.0, err
