"""A run that is damaged, and other commands on it: one line, exit code 2, and it is left as it is."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import LONG, SMALL, call, other, refused

from fairat_lightning.commands import train
from fairat_lightning.models.weights import load_weights

# -- a run's folder, and other files with weights

RUN = (*SMALL, "trainer.max_epochs=1", "method=pgd_at", "hydra.run.dir=run")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["x", *RUN])
        train.main()
    return place / "run"


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A finished run of RUN in tmp_path."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def text(name: str, content: str | bytes, *, finished: bool = False) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        if not finished:
            (run / "metrics.json").unlink()
        path = run / name
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)

    return damage


def gone(name: str, *, folder: bool = False) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / "metrics.json").unlink()
        (run / name).unlink()
        if folder:
            (run / name).mkdir()

    return damage


def checkpoint(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / "metrics.json").unlink()
        content = torch.load(run / "checkpoints" / name, weights_only=True)
        change(content)
        torch.save(content, run / "checkpoints" / name)

    return damage


LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"
OTHER = {"net.model.linear.weight": torch.zeros(9, 9)}
DAMAGED = {
    "metrics.json is cut": (text("metrics.json", "{", finished=True), "metrics.json is not a run's metrics.json"),
    "metrics.json in other bytes": (text("metrics.json", b"\xff\xfe", finished=True), "metrics.json is not"),
    "metrics.json of words": (
        text("metrics.json", '{"clean": {"average": "x", "worst": "y", "per_class": {"a": "z"}}}', finished=True),
        "metrics.json is not",
    ),
    "config.yaml is cut": (text("config.yaml", "a: ["), "config.yaml is missing or damaged"),
    "config.yaml in other bytes": (text("config.yaml", b"\xff\xfe"), "config.yaml is missing or damaged"),
    "config.yaml is gone": (gone("config.yaml"), "config.yaml is missing or damaged"),
    "config.yaml of another run": (text("config.yaml", "seed: 3"), "run of another configuration"),
    "run.json is cut": (text("run.json", "{"), "run.json is missing or damaged"),
    "run.json is a list": (text("run.json", "[]"), "run.json is missing or damaged"),
    "history.csv is gone": (gone("history.csv"), "history.csv is missing or damaged"),
    "history.csv is a folder": (gone("history.csv", folder=True), "history.csv is missing or damaged"),
    "history.csv of others": (text("history.csv", "a,b\n1,2\n"), "history.csv is missing or damaged"),
    "history.csv in other bytes": (text("history.csv", b"\xff\xfe"), "history.csv is missing or damaged"),
    "last.ckpt is empty": (text(LAST, b""), "last.ckpt is damaged"),
    "last.ckpt is a folder": (gone(LAST, folder=True), "last.ckpt is damaged"),
    "last.ckpt of another version": (checkpoint("last.ckpt", lambda c: c.update(format=0)), "another version"),
    "last.ckpt without a version": (checkpoint("last.ckpt", lambda c: c.pop("format")), "another version"),
    "last.ckpt without weights": (checkpoint("last.ckpt", lambda c: c.pop("state_dict")), "does not hold this run's network"),
    "last.ckpt without optimiser": (checkpoint("last.ckpt", lambda c: c.pop("optimizer_states")), "does not hold"),
    "last.ckpt of another network": (checkpoint("last.ckpt", lambda c: c["state_dict"].update(OTHER)), "does not hold"),
    "best.ckpt is gone": (gone(BEST), "best.ckpt is missing"),
    "best.ckpt is cut": (text(BEST, b"x"), "best.ckpt is damaged"),
    "best.ckpt of another network": (checkpoint("best.ckpt", lambda c: c["state_dict"].update(OTHER)), "does not hold"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_run_is_left_as_it_is_and_made_anew_where_asked(monkeypatch, capsys, tmp_path, run, case):
    damage, said = DAMAGED[case]
    damage(run)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = call(monkeypatch, capsys, tmp_path, *RUN)
    refused(code, err, said)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "overwrite=true" in err or "metrics.json" in err
    if case in ("best.ckpt is gone", "history.csv is a folder"):
        assert call(monkeypatch, capsys, tmp_path, *RUN, "overwrite=true")[0] == 0


def test_last_and_the_one_before_it_damaged(monkeypatch, capsys, tmp_path, run):
    shutil.copy(run / LAST, run / "checkpoints" / "previous.ckpt")
    text(LAST, b"x")(run)
    (run / "checkpoints" / "previous.ckpt").write_bytes(b"y")
    code, _, err = call(monkeypatch, capsys, tmp_path, *RUN)
    refused(code, err, "last.ckpt is damaged")


@pytest.mark.parametrize("kind", ["file", "link", "loop"])
def test_a_folder_that_is_none(monkeypatch, capsys, tmp_path, kind):
    place = tmp_path / "run"
    place.write_text("mine") if kind == "file" else place.symlink_to("nowhere/x" if kind == "link" else "run")
    for where in ("run", "run/below"):
        code, _, err = call(monkeypatch, capsys, tmp_path, *RUN, f"hydra.run.dir={where}")
        if code or kind != "link":
            refused(code, err, "hydra.run.dir=")
    assert place.is_symlink() or place.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_in_one_that_may_not_be_written(monkeypatch, capsys, tmp_path):
    tmp_path.chmod(0o555)
    code, _, err = call(monkeypatch, capsys, tmp_path, *RUN)
    tmp_path.chmod(0o755)
    refused(code, err, "cannot be made: Permission denied")


def weights(change: Callable[[dict], dict]) -> Callable[[Path], str]:
    def make(run: Path) -> str:
        state = torch.load(run / BEST, weights_only=True)["state_dict"]
        net = {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
        torch.save(change(net), run.parent / "w.pt")
        return "init_from=w.pt"

    return make


BASES: dict[str, tuple[Callable[[Path], str], str]] = {
    "nan": (weights(lambda net: {k: v * torch.nan for k, v in net.items()}), "is nan or infinite"),
    "whole numbers": (weights(lambda net: {k: v.to(torch.int8) for k, v in net.items()}), "as torch.int8"),
    "complex": (weights(lambda net: {k: v.to(torch.complex64) for k, v in net.items()}), "as torch.complex64"),
    "no tensors": (weights(lambda net: {"epoch": 3}), "w.pt holds no network weights"),
    "an empty file": (lambda run: (run.parent / "w.pt").write_bytes(b"") and "" or "init_from=w.pt", "w.pt cannot be read"),
    "a device": (lambda run: "init_from=/dev/null", "/dev/null cannot be read"),
    "a folder within a run": (lambda run: "init_from=run/checkpoints", "holds no checkpoints/best.ckpt"),
    "other classes": (lambda run: "init_from=run data.load.num_classes=5", "init_from: run/checkpoints/best.ckpt does not fit"),
    "another width": (lambda run: "init_from=run model.width=3", "another width"),
    "another architecture": (lambda run: "init_from=run model=resnet18", "another architecture"),
    "another mean": (lambda run: "init_from=run model.mean=[0.1]", "set model.mean=[0.5]"),
    "a teacher of other classes": (
        lambda run: "method=fair_ard method.teacher=run data.load.num_classes=5",
        "method.teacher: run/checkpoints/best.ckpt does not fit",
    ),
    "a teacher whose config.yaml is none": (
        lambda run: (run / "config.yaml").write_text("model: 5") and "method=fair_ard method.teacher=run",
        "run/config.yaml has no model",
    ),
    "a teacher whose config.yaml is in other bytes": (
        lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe") and "method=fair_ard method.teacher=run",
        "run/config.yaml cannot be read",
    ),
}


@pytest.mark.parametrize("case", BASES)
def test_weights_to_start_from(monkeypatch, capsys, tmp_path, run, case):
    make, said = BASES[case]
    words = make(run).split()
    before = sorted(tmp_path.rglob("*"))
    code, _, err = call(monkeypatch, capsys, tmp_path, *RUN, "hydra.run.dir=new", *words)
    refused(code, err, said)
    assert sorted(tmp_path.rglob("*")) == before


def test_half_precision_is_fine(run, compose, tmp_path):
    from fairat_lightning.models import preactresnet_tiny

    weights(lambda net: {name: value.half() for name, value in net.items()})(run)
    load_weights(preactresnet_tiny(num_classes=4, in_channels=1, width=4, mean=[0.5], std=[0.25]), tmp_path / "w.pt")


# -- the other commands

OTHERS = {
    "checkpoint": "cannot read checkpoint: each setting must be written key=value",
    "checkpoint=": "checkpoint= must be a path",
    "checkpoint=5": "checkpoint=5 must be a path",
    "checkpoint={long}": "cannot be read: File name too long",
    "checkpoint='~nobody_of_this_name/x'": "~nobody_of_this_name/x cannot be read",
    "checkpoint=run model.width=1,2": "one value for each key",
    "checkpoint=run model=null": "a group was not set to the name",
    "checkpoint=run ~model": "model",
    "checkpoint=run data.load.num_classes=x": "data.load.num_classes=x",
    "checkpoint=run data.load=null": "data.load=None",
    "checkpoint=run model._target_=null": "_target_=None",
    "checkpoint=run overwrite=x": "overwrite=x",
    "checkpoint=run to={long}": "File name too long",
    "checkpoint=run to=''": "to= must be a path",
}
ALONE = {
    "evaluate name={long}": "100 letters at most",
    "evaluate name=.": "name=.",
    "evaluate suite=null": "a group was not set to the name",
    "evaluate suite=sweep suite.multiples=[inf]": "suite.multiples=[inf]",
    "evaluate suite=standard suite.other_eps=-1": "suite.other_eps=-1",
    "evaluate suite=corruptions suite.root=5": "suite.root=5",
    "evaluate suite._target_=os.system": "_target_=os.system is not allowed",
    "evaluate suite._target_=fairat_lightning.objectives.AT": "gives AT: it must be a subclass of",
    "evaluate +suite.foo=1": "suite.foo is not a parameter of",
    "export to=run": "it is never replaced",
    "balance to=nowhere/x.pt": "to=nowhere/x.pt",
    "balance head._target_=os.system": "os.system",
}


@pytest.mark.parametrize("name", ["evaluate", "export", "balance"])
def test_other_commands(monkeypatch, capsys, tmp_path, run, name):
    before = sorted(tmp_path.rglob("*"))
    cases = OTHERS | {w.removeprefix(name): said for w, said in ALONE.items() if w.startswith(name + " ")}
    for words, said in cases.items():
        split = words.replace("{long}", LONG).split()
        split = ["checkpoint=run", *split] if words.startswith(" ") else split
        if name == "export" and not any(word.startswith("to=") for word in split):
            split.append("to=out")
        code, err = other(monkeypatch, capsys, tmp_path, name, *split)
        refused(code, err, said)
        assert sorted(tmp_path.rglob("*")) == before, words


@pytest.mark.parametrize("name", ["evaluate", "export", "balance"])
def test_other_commands_on_a_damaged_run(monkeypatch, capsys, tmp_path, run, name):
    to = ["to=out"] if name == "export" else []
    config = (run / "config.yaml").read_text()
    for content, said in {
        b"\xff\xfe": "config.yaml cannot be read",
        b"a: [": "config.yaml cannot be read",
        config.replace("seed: 0", "seed: ${nothing}").encode(): "config.yaml cannot be read",
        config.replace("fairat_lightning.models.preactresnet_tiny", "os.system").encode(): "_target_=os.system",
    }.items():
        (run / "config.yaml").write_bytes(content)
        code, err = other(monkeypatch, capsys, tmp_path, name, "checkpoint=run", *to)
        refused(code, err, said)
    (run / "config.yaml").write_text(config)
    (run / BEST).write_bytes(b"half")
    refused(*other(monkeypatch, capsys, tmp_path, name, "checkpoint=run", *to), "best.ckpt cannot be read")
    (run / BEST).unlink()
    refused(*other(monkeypatch, capsys, tmp_path, name, "checkpoint=run", *to), "holds no checkpoints/best.ckpt")
    assert not (tmp_path / "out").exists() and not (run / "evaluation").exists()


def test_report(monkeypatch, capsys, tmp_path, run):
    for words, said in {
        "": "arguments are required",
        "run --to": "--to",
        "run --sort=x": "--sort",
        "run nowhere": "nowhere holds no finished run",
        "run run": "names the same folder",
        "=run": "empty or unprintable label",
        LONG: "File name too long",
        f"run --to {LONG}": "File name too long",
        "run --to run/config.yaml": "is a file",
    }.items():
        refused(*other(monkeypatch, capsys, tmp_path, "report", *words.split()), said)
    (run / "metrics.json").unlink()
    refused(*other(monkeypatch, capsys, tmp_path, "report", "run"), "run is not finished")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
