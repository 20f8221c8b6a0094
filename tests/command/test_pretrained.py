"""The networks of the package: every command takes one by its name, with a run's bits, and leaves the package as it is."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import ROOT, SMALL, call, other, photos, refused, script
from omegaconf import OmegaConf
from safetensors.torch import load_file

from fairat_lightning import balance, evaluate, export, pretrained
from fairat_lightning.commands import cli
from fairat_lightning.config import classifier
from fairat_lightning.config.build import network
from fairat_lightning.config.compose import CONF, GROUPS, compose_classifier
from fairat_lightning.config.targets import stored
from fairat_lightning.data import as_float
from fairat_lightning.metrics import class_accuracy, confusion_matrix
from fairat_lightning.models.weights import load_weights
from fairat_lightning.record.fingerprint import fingerprint

KEPT = {place.parent.name: place.parent for place in sorted(pretrained.HERE.glob("*/config.yaml"))}
FILES = {"model.safetensors", "README.md", "config.yaml"}
NAME = "pretrained:synthetic_pgd_at"


def best_weights(run: Path) -> dict[str, torch.Tensor]:
    """The network's part of a run's best checkpoint."""
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}


def loaded(checkpoint: str) -> classifier.Classifier:
    return classifier.load(compose_classifier("classifier", [f"checkpoint={checkpoint}"]))


@pytest.fixture
def keep(monkeypatch, tmp_path):
    """The command studies/keep.py in this process, in a directory of its own and with a package that keeps no network yet."""
    module = script("studies/keep.py")
    monkeypatch.setattr(pretrained, "HERE", tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def keep(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["keep.py", *words])
        cli.start(module.keep, "help")

    return keep


@pytest.fixture
def kept(keep, trained, tmp_path):
    """A run of one epoch and the folder of its network in the package."""
    run = Path(shutil.copytree(trained("trainer.max_epochs=1", "model.mean=[0.4]", "select=last")[0], tmp_path / "run"))
    keep(str(run), "synthetic_pgd_at_s0")
    return SimpleNamespace(run=run, folder=tmp_path / "package" / "synthetic_pgd_at_s0")


@pytest.fixture
def untouched(kept):
    """Fails unless the package is at the end what it was."""
    files = lambda: {p: p.read_bytes() for p in pretrained.HERE.rglob("*") if p.is_file()}  # noqa: E731
    before = files()
    yield kept
    assert files() == before


def test_a_kept_network_is_the_run_s_bit_for_bit(untouched):
    folder, run = untouched.folder, untouched.run
    assert {path.name for path in folder.iterdir()} == FILES
    state, best = load_file(folder / "model.safetensors"), best_weights(run)
    assert set(state) == set(best) and fingerprint({name: state[name] for name in best}) == fingerprint(best)
    before, after = loaded(str(run)), loaded(NAME)
    images = torch.rand(9, 1, 8, 8)
    assert torch.equal(before.net(images), after.net(images)) and before.run == run and after.run is None
    for group in GROUPS:
        assert before.cfg[group] == after.cfg[group]
    config, theirs = (yaml.safe_load((place / "config.yaml").read_text()) for place in (folder, run))
    assert (
        config == {group: theirs[group] for group in GROUPS} | {"classes": [f"class_{k}" for k in range(4)]}
        and config["attack"]["steps"] == 2
    )
    card = (folder / "README.md").read_text()
    assert "checkpoint=pretrained:synthetic_pgd_at_s0" in card and card.count("license: apache-2.0") == 1
    assert json.loads((run / "run.json").read_text())["command"] in card and "not set" not in card
    assert "selected on validation" not in card, "the last epoch was taken"


def test_the_path_of_the_data_stays_behind(keep, launch, monkeypatch, capsys, tmp_path):
    root = f"data.root={photos(tmp_path, images=12)}"
    sizes = ["data.train_size=null", "data.test_size=null", "data.batch_size=8", "data.image_size=8"]
    run, _ = launch("data=folder", root, *sizes, "model=preactresnet_tiny", "trainer.max_epochs=1")
    keep(str(run), "photos_pgd_at_s0")
    folder = tmp_path / "package" / "photos_pgd_at_s0"
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["root"] is None
    assert not any(str(tmp_path) in (folder / name).read_text() for name in ("config.yaml", "README.md"))
    words = ["checkpoint=pretrained:photos_pgd_at", root, "to=out"]
    assert other(monkeypatch, capsys, tmp_path / "here", "export", *words)[0] == 0
    assert (tmp_path / "here" / "out" / "README.md").read_text() == (folder / "README.md").read_text()


def test_training_starts_from_it_and_keeps_its_name(untouched, launch):
    words = ["model.mean=[0.4]", "trainer.max_epochs=1", "optim.lr=0.000001"]
    for key, folder in ((f"init_from={NAME}", "base"), (f"method.teacher={NAME}", "teacher")):
        method = ["method=fair_ard"] if folder == "teacher" else []
        run, _ = launch(*words, *method, key, folder=folder)
        config, facts = (yaml.safe_load((run / name).read_text()) for name in ("config.yaml", "run.json"))
        assert (config["method"]["teacher"] if method else config["init_from"]) == NAME
        if not method:
            assert facts["init_from"] == {"path": NAME, "weights": fingerprint(best_weights(untouched.run))}


def test_an_evaluation_goes_to_the_working_directory(untouched, monkeypatch, capsys, tmp_path):
    here = tmp_path / "here"
    for path in (NAME, f"{NAME}_s0", str(untouched.folder)):
        assert other(monkeypatch, capsys, here, "evaluate", f"checkpoint={path}", "samples_per_class=2")[0] == 0
    assert [path.name for path in (here / "runs").iterdir()] == ["audit-synthetic_pgd_at_s0"]
    config = yaml.safe_load((here / "runs/audit-synthetic_pgd_at_s0/evaluation/quick/config.yaml").read_text())
    assert config["checkpoint"] == NAME and config["attack"]["steps"] == 2


def test_balancing_needs_a_place(untouched, monkeypatch, capsys, tmp_path):
    here = tmp_path / "here"
    refused(*other(monkeypatch, capsys, here, "balance", f"checkpoint={NAME}"), "set to=FILE")
    itself = [f"to={untouched.folder}/model.safetensors", "overwrite=true"]
    refused(*other(monkeypatch, capsys, here, "balance", f"checkpoint={NAME}", *itself), "the checkpoint itself")
    assert list(here.iterdir()) == []
    assert other(monkeypatch, capsys, here, "balance", f"checkpoint={NAME}", "to=out.pt", "head.strengths=[1.0]")[0] == 0
    assert set(torch.load(here / "out.pt", weights_only=True)) == set(load_file(untouched.folder / "model.safetensors"))


def test_an_export_has_the_same_bytes_and_card(untouched, monkeypatch, capsys, tmp_path):
    here = tmp_path / "here"
    for words in (["to=out"], ["to=out", "attack.eps=0.5", "overwrite=true"]):
        assert other(monkeypatch, capsys, here, "export", f"checkpoint={NAME}", *words)[0] == 0
        for name in ("model.safetensors", "README.md"):
            assert (here / "out" / name).read_bytes() == (untouched.folder / name).read_bytes()
        assert (here / "out" / "model.py").exists()
    assert other(monkeypatch, capsys, here, "export", f"checkpoint={NAME}", "to=changed", "data.test_size=12")[0] == 0
    assert "never evaluated" in (here / "changed" / "README.md").read_text(), "the figures are of other data"


@pytest.mark.parametrize("name", ["", "nothing", "synthetic_pgd_at_s1", "../package/synthetic_pgd_at_s0", "."])
def test_a_name_that_does_not_exist_lists_those_that_do(untouched, monkeypatch, capsys, tmp_path, name):
    here, path = tmp_path / "here", f"pretrained:{name}"
    shutil.copytree(untouched.folder, pretrained.HERE / "a_network_s1")
    said = f"{path} does not exist: choose one of pretrained:a_network_s1, {NAME}_s0"
    for words in (
        ["data=cifar10", f"data.root={tmp_path}", f"init_from={path}"],
        [*SMALL, "method=fair_ard", f"method.teacher={path}"],
    ):
        code, _, err = call(monkeypatch, capsys, here, *words)
        refused(code, err, said)
    for judged in ("evaluate", "balance", "export"):
        words = [] if judged == "evaluate" else ["to=out"]
        refused(*other(monkeypatch, capsys, here, judged, f"checkpoint={path}", *words), said)
    assert list(here.iterdir()) == []
    shutil.rmtree(pretrained.HERE / "a_network_s1")


@pytest.mark.parametrize(
    "words,said",
    [
        ("model.width=8", "does not fit this network"),
        ("data.load.num_classes=5", "another number of classes"),
        ("model=resnet18", "another architecture"),
        ("model.mean=[0.5]", "set model.mean=[0.4] model.std=[0.25]"),
    ],
)
def test_a_network_of_another_shape_is_refused(untouched, monkeypatch, capsys, tmp_path, words, said):
    code, _, err = call(monkeypatch, capsys, tmp_path / "here", *SMALL, "model.mean=[0.4]", *words.split(), f"init_from={NAME}")
    refused(code, err, said)
    refused(*other(monkeypatch, capsys, tmp_path / "here", "evaluate", f"checkpoint={NAME}", *words.split()), said)


def test_a_configuration_that_names_other_code_is_refused(kept, monkeypatch, capsys, tmp_path):
    place = kept.folder / "config.yaml"
    place.write_text(place.read_text().replace("fairat_lightning.models.preactresnet_tiny", "os.system"))
    said = "_target_=os.system is not allowed"
    refused(*other(monkeypatch, capsys, tmp_path / "here", "evaluate", f"checkpoint={NAME}"), said)
    code, _, err = call(monkeypatch, capsys, tmp_path / "here", *SMALL, "method=fair_ard", f"method.teacher={NAME}")
    refused(code, err, said)


@pytest.mark.parametrize(
    "words,said",
    [
        ("{run}", "two words"),
        ("{tmp} a_b_s0", "not a finished run"),
        ("{run} a_b_s1", "must be <data>_<method>_s0"),
        ("{run} ../a_b_s0", "must be <data>_<method>_s0"),
        ("{run} synthetic_pgd_at_s0", "never replaced"),
    ],
)
def test_what_cannot_be_kept_is_refused(untouched, keep, capsys, tmp_path, words, said):
    with pytest.raises(SystemExit) as stopped:
        keep(*words.replace("{run}", str(untouched.run)).replace("{tmp}", str(tmp_path)).split())
    refused(int(stopped.value.code or 0), capsys.readouterr().err, said)


# -- the networks that are there


def test_the_package_stays_small():
    assert {"digits_pgd_at_s0", "digits_faal_s0"} <= set(KEPT)
    assert sum(path.stat().st_size for path in pretrained.HERE.rglob("*") if path.suffix != ".pyc") <= 25e6


@pytest.mark.parametrize("name", KEPT)
def test_a_network_of_the_package_is_whole(name):
    folder = KEPT[name]
    assert {path.name for path in folder.iterdir()} == FILES and re.fullmatch(r"[a-z0-9_]+_s\d+", name)
    config = stored(folder, GROUPS)
    assert set(yaml.safe_load((folder / "config.yaml").read_text())) == {*GROUPS, "classes"} and config["data"]["root"] is None
    state = load_file(folder / "model.safetensors")
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}
    shape = SimpleNamespace(num_classes=len(state["model.linear.bias"]), channels=len(state["mean"].flatten()))
    load_weights(network(OmegaConf.create(config), shape), f"pretrained:{name}")  # type: ignore[arg-type]
    card = (folder / "README.md").read_text()
    assert f"pretrained:{name}" in card and f"seed: {name.rpartition('_s')[2]}\n" in card and "python -m fairat_lightning" in card
    assert re.search(r"git revision: [0-9a-f]{40}\n", card), "trained from a checkout without changes"
    for text in (card, (folder / "config.yaml").read_text()):
        assert not re.search(r"(?<![\w.])/(root|home|work|tmp|mnt|Users)\b", text), "a machine's path"


@pytest.mark.parametrize("name", [name for name in KEPT if name.startswith("digits")])
def test_a_digits_network_has_the_accuracy_of_its_card(name):
    judged = loaded(f"pretrained:{name}")
    test = judged.data.test
    with torch.no_grad():
        predicted = judged.net(as_float(test.pixels)).argmax(1)
    found = class_accuracy(confusion_matrix(test.targets, predicted, judged.data.num_classes))
    rows = re.findall(r"(?m)^\| (\d) \| \**([\d.]+)\** \|", (KEPT[name] / "README.md").read_text())
    assert [f"{100 * value:.1f}" for value in found.tolist()] == [value for _, value in rows]


def test_the_help_of_every_command_names_one(capsys, monkeypatch, tmp_path):
    for module in (balance, evaluate, export):
        assert "checkpoint=pretrained:" in str(module.__doc__)
    assert "init_from=pretrained:" in (CONF / "config.yaml").read_text()
    for key, words in (("init_from", ["experiment=digits_faal"]), ("teacher", ["method=fair_ard"])):
        code, _, err = call(monkeypatch, capsys, tmp_path, *words)
        refused(code, err, "pretrained:NAME")
        assert key in err


def test_every_name_in_the_texts_is_there():
    texts = [*(ROOT / "fairat_lightning").glob("*.py"), ROOT / "conf" / "config.yaml", *ROOT.glob("*.md"), ROOT / ".ci" / "run"]
    names = {name for path in texts for name in re.findall(r"pretrained:(digits_\w+)", path.read_text())}
    assert names and all(pretrained.located(f"pretrained:{name}").is_dir() for name in names)
