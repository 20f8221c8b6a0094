"""What a user brings from a package of their own, in every command that trains or judges; and own folders of options."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT, SMALL, call, other, refused

import fairat_lightning as fl

MINE = """
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.averaging import EMA
from fairat_lightning.awp import AWP
from fairat_lightning.data import DataModule
from fairat_lightning.data.sets import synthetic
from fairat_lightning.head import BalancedHead
from fairat_lightning.methods import FAAL
from fairat_lightning.objectives import AT

SEEN = []


class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels, width=4):
        super().__init__(nn.Conv2d(in_channels, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, num_classes))


class Several(Net):  # its logits are the second of what it returns, or under a key
    def __init__(self, num_classes, in_channels, kind="dict"):
        super().__init__(num_classes, in_channels)
        self.kind = kind

    def forward(self, x):
        logits = super().forward(x)
        return {"dict": {"loss": 0, "logits": logits}, "tuple": (x, logits), "wide": logits.repeat(1, 2)}[self.kind]


class Attack(PGD):
    pass


class Objective(AT):
    pass


class Method(FAAL):
    pass


class Weights(AWP):
    pass


class Average(EMA):
    pass


class Head(BalancedHead):
    pass


class Data(DataModule):
    pass


class Sign(torch.optim.SGD):
    pass


class Mine(Callback):
    def __init__(self, word="once"):
        self.word = word

    def on_train_end(self, trainer, pl_module):
        SEEN.append(self.word)


class Log(DummyLogger):
    def __init__(self, save_dir, name):
        super().__init__()
        SEEN.append(name)


class Normalising(DataModule):
    def train_dataloader(self):
        images = self.train
        rows = [((x / 255 - 0.5) / 0.5, y, k) for k, (x, y) in enumerate(zip(images.pixels, images.targets))]
        return torch.utils.data.DataLoader(rows, batch_size=self.batch_size)


def load(root, **rest):
    return synthetic(root, **rest | {"num_classes": 4, "train_per_class": 20, "test_per_class": 5})


def other(**values):
    return values


def half(*, epochs, steps, by=0.5):
    return lambda step: by


def dark(x, *, generator=None):
    return x / 2


def alone(x):
    return x


def small(x, *, generator=None):
    return x[..., :4]


def bytes_of(x, *, generator=None):
    return (x * 255).to(torch.uint8)


def bright(x, *, generator=None):
    return x * 255


def void(x, *, generator=None):
    return x * float("nan")


def nothing(x, *, generator=None):
    return None


class Empty(Net):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.requires_grad_(False)


def pair(root, **rest):
    return load(root)[:2]


def none(root, **rest):
    return None
"""
ALLOW = "allow=[mine.]"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a package `mine`, which the command finds there."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("mine", None)


OWN = {
    "model": ("model._target_=mine.Net", "model.mean=[0.5]", "model.width=3"),
    "data": ("data._target_=mine.Data", "data.load={_target_: mine.load, _partial_: true}", "data.batch_size=16"),
    "loader": ("data.load={_target_: mine.load, _partial_: true}", "data.train_size=null"),
    "attack": ("attack._target_=mine.Attack", "attack.steps=1"),
    "objective": ("objective._target_=mine.Objective",),
    "method": ("method._target_=mine.Method", "method.radius=0.5"),
    "awp": ("awp._target_=mine.Weights", "awp.gamma=0.01", "awp.warmup_epochs=0"),
    "averaging": ("averaging._target_=mine.Average", "averaging.decay=0.9"),
    "head": ("head._target_=mine.Head", "head.strengths=[1.0]"),
    "augmentation": ("method=fairat", "method.augmentation=mine.dark"),
    "optimiser": ("optim._target_=mine.Sign", "optim.lr=0.01"),
    "schedule": ("optim=sgd", "schedule._target_=mine.half", "schedule.by=0.1"),
    "callback": ("callbacks=[mine.Mine,{_target_: mine.Mine, word: twice}]",),
    "logger": ("+logger.mine._target_=mine.Log", "logger=[csv,tensorboard]"),
}


def words_of(part: str) -> list[str]:
    group = {word.partition(".")[0] for word in OWN[part] if "._target_=" in word}
    own = [word for word in SMALL if word.partition(".")[0] not in group - {"logger"} and word.partition("=")[0] not in group]
    return [*own, "trainer.max_epochs=1", *(["data.val_per_class=2"] if part == "data" else []), *OWN[part]]


@pytest.mark.parametrize("part", OWN)
def test_a_training_takes_it_by_name_and_only_where_the_command_line_allows_it(here, monkeypatch, capsys, part):
    words = [*words_of(part), "hydra.run.dir=run"]
    code, out, err = call(monkeypatch, capsys, here, *words)
    refused(code, err, "is not allowed")
    assert "allow=[mine.]" in err and not (here / "run").exists()
    code, out, err = call(monkeypatch, capsys, here, *words, ALLOW)
    assert (code, err) == (0, ""), err
    stored = yaml.safe_load((here / "run" / "config.yaml").read_text())
    assert stored["allow"] == ["mine."] and "mine." in str(stored).replace("'allow': ['mine.']", "")
    if part == "callback":
        assert sys.modules["mine"].SEEN == ["once", "twice"]
    if part == "logger":
        assert sys.modules["mine"].SEEN == ["run"] and list((here / "run").rglob("events.out*"))
    code, out, err = call(monkeypatch, capsys, here, *words, ALLOW)
    assert code == 0 and "This run is finished" in out, err


def test_a_run_with_own_parts_is_judged_exported_and_balanced_by_whoever_allows_them(here, monkeypatch, capsys):
    words = [*words_of("model"), *OWN["attack"][:1], "hydra.run.dir=run", ALLOW]
    assert call(monkeypatch, capsys, here, *words)[0] == 0
    for command, more in {"evaluate": ["samples_per_class=2"], "export": ["to=out"], "balance": ["head.strengths=[1.0]"]}.items():
        refused(*other(monkeypatch, capsys, here, command, "checkpoint=run", *more), "is not allowed")
        code, err = other(monkeypatch, capsys, here, command, "checkpoint=run", *more, ALLOW)
        assert (code, err) == (0, ""), command
    assert json.loads((here / "run/evaluation/quick/metrics.json").read_text())["clean"]["per_class"].keys()
    assert fl.load_run("run", allow=["mine."])(fl.load_data("run").test.pixels[:2] / 255).shape == (2, 4)


def test_a_network_that_trains_nothing_is_judged(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    import mine

    torch.save(mine.Empty(4, 1).state_dict(), "frozen.pt")
    small = [word for word in SMALL if word.startswith("data")]
    words = ["checkpoint=frozen.pt", "model._target_=mine.Empty", ALLOW, "samples_per_class=2", "normalisation=none", *small]
    assert other(monkeypatch, capsys, here, "evaluate", *words, "attack.eps=0.1") == (0, "")


def test_sweeps_and_searches_take_them(here, monkeypatch, capsys):
    words = [*words_of("model"), ALLOW]
    assert call(monkeypatch, capsys, here, "-m", *words, "seed=0,1")[0] == 0
    assert len(list((here / "runs").glob("*custom*"))) == 2
    assert other(monkeypatch, capsys, here, "search", *words, "trials=1", "optim.lr=choice(0.1,0.2)") == (0, "")


def test_the_logits_of_a_network_that_returns_more_are_found_or_said(here, monkeypatch, capsys):
    model = ("model._target_=mine.Several", ALLOW, "hydra.run.dir=run", "trainer.max_epochs=1")
    small = [word for word in SMALL if not word.startswith(("model.", "trainer.max"))]
    code, out, err = call(monkeypatch, capsys, here, *small, *model)
    assert (code, err) == (0, "") and "those at 'logits' are used" in out
    code, err = other(monkeypatch, capsys, here, "evaluate", "checkpoint=run", "samples_per_class=1", ALLOW)
    assert (code, err) == (0, "")
    code, out, err = call(monkeypatch, capsys, here, *small, *model, "model.kind=tuple", "hydra.run.dir=two")
    assert (code, err) == (0, "") and "those at 1 are used" in out
    code, _, err = call(monkeypatch, capsys, here, *small, *model, "model.kind=tuple", "model.logits=0", "hydra.run.dir=not")
    refused(code, err, "for 2 images: it must return logits (images, 4); set model.logits= to their index or key")
    code, out, err = call(monkeypatch, capsys, here, *small, *model, "model.kind=tuple", "model.logits=1", "hydra.run.dir=said")
    assert (code, err) == (0, "") and "are used" not in out
    code, _, err = call(monkeypatch, capsys, here, *small, *model, "model.kind=wide", "hydra.run.dir=three")
    refused(code, err, "returns (2, 8) for 2 images: it must return logits (images, 4)")
    for run in ("run", "two", "said"):
        assert other(monkeypatch, capsys, here, "export", f"checkpoint={run}", f"to=out_{run}", ALLOW) == (0, "")


@pytest.mark.slow
def test_the_console_script_finds_them_too(here):
    """Its own folder stands in sys.path, and the working directory does not."""
    script = Path(sys.executable).with_name("fairat")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["train", *words_of("optimiser"), "hydra.run.dir=run", ALLOW]
    done = subprocess.run([script, *words], cwd=here, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (("model._target_=mine.load", "model.root=1"), "model: load cannot be built"),
        (("data._target_=mine.Net",), "data"),
        (("attack._target_=mine.Objective",), "must be a subclass of fairat_lightning.attacks.PGD"),
        (("method._target_=mine.Net",), "method"),
        (("callbacks=[mine.Net]",), "callbacks"),
        (("callbacks=mine.Mine",), "must be a list"),
        (("callbacks=[3]",), "must be the name of a class"),
        (("optim._target_=mine.Net",), "optim"),
        (("model=custom",), "model=custom needs the class, model._target_"),
        (("attack._target_=mine.other", "attack.steps=1"), "must be a subclass of fairat_lightning.attacks.PGD"),
        (("+logger.x=3",), "logger.x is not a logger"),
        (("model._target_=mine.Empty",), "model: the network has no weights to train"),
        (("data.load={_target_: mine.pair, _partial_: true}",), "data.load returned 2 values: it must return"),
        (("data.load={_target_: mine.none, _partial_: true}",), "data.load returned something of type NoneType"),
        *(
            ((f"method.augmentation=mine.{name}", f"method={method}"), f"method.augmentation=mine.{name}{said}")
            for method in ("fairat", "floor")
            for name, said in {
                "alone": ": alone() got an unexpected keyword argument 'generator'",
                "small": " gives torch.float32 of shape (4, 1, 8, 4): it must give torch.float32 of the same shape, (4, 1, 8, 8)",
                "bytes_of": " gives torch.uint8 of shape (4, 1, 8, 8)",
                "bright": " gives values outside [0, 1]",
                "void": " gives values outside [0, 1]",
                "nothing": " gives a NoneType",
            }.items()
        ),
    ],
)
def test_what_is_no_such_part_is_one_line(here, monkeypatch, capsys, words, said):
    group = words[0].partition(".")[0]
    small = [word for word in SMALL if word.partition(".")[0] != group.partition("=")[0]]
    code, _, err = call(monkeypatch, capsys, here, *small, *words, ALLOW, "hydra.run.dir=run")
    refused(code, err, said)


# -- optimisers and schedules


@pytest.mark.parametrize(
    "words",
    [
        ("optim=adamw",),
        ("optim=sgd", "schedule=constant", "schedule.warmup_epochs=0.5"),
        ("optim=sgd", "schedule=multistep"),
        ("optim=sgd", "schedule=onecycle"),
        ("optim._target_=torch.optim.RMSprop", "optim.lr=0.001", "schedule=cosine"),
    ],
)
def test_optimisers_and_schedules_train(launch, words):
    folder, _ = launch(*words, "trainer.max_epochs=1")
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(state["optimizer_states"]) == 1 and len(state["lr_schedulers"]) == 1


@pytest.mark.parametrize(
    "words, said",
    [
        (("schedule=cosine",), "schedule= needs optim=sgd"),
        (("optim=adamw", "schedule=none"), "schedule=none, but this optimiser has no schedule"),
        (("optim=adamw", "optim.lr=-1"), "learning rate"),
        (("optim=adamw", "schedule.warmup_epochs=9"), "schedule.warmup_epochs=9"),
        (("optim=sgd", "schedule=multistep", "schedule.milestones=3"), "schedule.milestones=3"),
        (("optim=sgd", "schedule=linear"), "schedule=linear is unknown"),
        (("optim=adamw", "optim.momentum=0.9"), "optim.momentum"),
        (("optim._target_=torch.optim.SparseAdam", "optim.lr=0.1"), "optim"),
    ],
)
def test_optimisers_that_cannot_be_are_one_line(tmp_path, monkeypatch, capsys, words, said):
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, *words)
    refused(code, err, said)


# -- own folders of options


@pytest.fixture
def options(tmp_path):
    (tmp_path / "my conf" / "method").mkdir(parents=True)
    (tmp_path / "my conf" / "method" / "mine.yaml").write_text("# Mine.\ndefaults: [faal]\nradius: 0.25\n")
    return tmp_path


@pytest.mark.parametrize("flag", [("--config-dir", "my conf"), ("--config-dir=my conf",), ("-cd", "my conf")])
def test_own_options_are_those_of_a_training(options, monkeypatch, capsys, flag):
    code, out, err = call(monkeypatch, capsys, options, *flag, *SMALL, "method=mine", "hydra.run.dir=run", "trainer.max_epochs=1")
    assert (code, err) == (0, ""), err
    assert yaml.safe_load((options / "run" / "config.yaml").read_text())["method"]["radius"] == 0.25


def test_own_options_in_the_other_commands_and_in_help(options, monkeypatch, capsys):
    (options / "my conf" / "attack").mkdir()
    (options / "my conf" / "attack" / "weak.yaml").write_text("# Weak.\ndefaults: [pgd10]\nsteps: 1\n")
    flag = ["--config-dir", "my conf"]
    assert call(monkeypatch, capsys, options, *SMALL, "trainer.max_epochs=1", "hydra.run.dir=run")[0] == 0
    words = ["checkpoint=run", "attack=weak", "samples_per_class=1", *flag]
    assert other(monkeypatch, capsys, options, "evaluate", *words, "attack.eps=0.1") == (0, "")
    assert call(monkeypatch, capsys, options, *flag, "-m", *SMALL, "method=mine", "trainer.max_epochs=1", "seed=0")[0] == 0
    code, out, _ = call(monkeypatch, capsys, options, "--help", *flag)
    assert code == 0 and "mine" in out and "faal" in out
    code, out, _ = call(monkeypatch, capsys, options, "--help", *flag, command="evaluate")
    assert code == 0 and "attack=weak" in out and "method=mine" in out


@pytest.mark.parametrize("command", ["train", "evaluate", "search"])
def test_a_folder_of_options_that_is_not_there_is_one_line(tmp_path, monkeypatch, capsys, command):
    code, _, err = call(monkeypatch, capsys, tmp_path, "--config-dir", "nowhere", "seed=0", command=command)
    refused(code, err, "--config-dir nowhere")


LIGHTNINGS = "lightning.pytorch.callbacks"


@pytest.mark.parametrize(
    "words,said",
    [
        (("callbacks=[mine.Mine]",), "callbacks._target_=mine.Mine is not allowed"),
        ((f"callbacks=[{LIGHTNINGS}.LearningRateMonitor]",), "add logger=tensorboard or logger=wandb"),
        (
            (f"callbacks=[{{_target_: {LIGHTNINGS}.EarlyStopping, monitor: val/robus}}]",),
            "monitor=val/robus, which is not logged",
        ),
        ((f"callbacks=[{LIGHTNINGS}.EarlyStoping]",), "did you mean EarlyStopping?"),
        (("+logger.mine._target_=mine.Logg", ALLOW), "mine has no Logg; did you mean Log?"),
        (("method._target_=fairat_lightning.methods.FALL",), "did you mean FAAL?"),
        (("optim._target_=torch.optim.AdamWw",), "did you mean AdamW?"),
        (("optim=adamw", "optim.lr=abc"), "optim.lr=abc must be a number"),
        (("optim=adamw", "optim.lr=-1"), "optim: Invalid learning rate"),
        (("method=faal", "+method.radios=1"), "did you mean method.radius?"),
    ],
)
def test_what_would_end_a_run_later_is_refused_before_it_begins(here, monkeypatch, capsys, words, said):
    code, _, err = call(monkeypatch, capsys, here, *SMALL, *words, "hydra.run.dir=run")
    refused(code, err, said)
    assert not (here / "run").exists()


def test_a_callback_that_ends_a_training_is_said_and_in_the_record(here, monkeypatch, capsys):
    stopping = f"callbacks=[{{_target_: {LIGHTNINGS}.EarlyStopping, monitor: val/select, patience: 1, min_delta: 2}}]"
    words = [word for word in SMALL if "max_epochs" not in word]
    code, out, _ = call(monkeypatch, capsys, here, *words, stopping, "trainer.max_epochs=9", "hydra.run.dir=run")
    assert code == 0 and "A callback ended the training after 2 of 9 epochs." in out
    assert json.loads((here / "run" / "run.json").read_text())["stopped_after_epochs"] == 2


def test_the_batches_of_a_data_module_of_ones_own_are_checked_too(here, monkeypatch, capsys):
    words = [*words_of("data"), "data._target_=mine.Normalising", ALLOW, "hydra.run.dir=run"]
    code, _, err = call(monkeypatch, capsys, here, *words)
    refused(code, err, "images are from -1 to 1, and must lie in [0,1]")
    assert not (here / "run").exists()
