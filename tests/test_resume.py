"""A run that is stopped anywhere ends in the bits of one that was not, history included."""

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_contract import options

from fairat_lightning import run as runs

AVERAGED = ("averaging=ema", "averaging=swa averaging.start=0.3", "averaging=fawa averaging.threshold=0.0 averaging.start=0.0")
RESUMED = [
    *options("method"),
    "faal method.memory=0.9",
    "dafa method.warmup=0.3",
    "floor method.warmup=0.3 method.augmentation=cutout",
    "floor averaging.threshold=0.0",
    "cfol method.sampling=uniform",
    "fairat averaging=ema method.augmentation=cutout",
    "fair_tat trainer.accumulate_grad_batches=2",
    *(f"pgd_at {average} head=balanced" for average in AVERAGED),
]
FOUR_STEPS = ("data.batch_size=16", "trainer.max_epochs=3", "optim.milestones=[0.5]")  # in each epoch


class Crash(Exception):
    pass


class At(Callback):
    """Do something at the end of a step, or at the start of an epoch (step 0)."""

    def __init__(self, epoch, step, act):
        self.where, self.act = (epoch, step), act

    def on_train_epoch_start(self, trainer, pl_module):
        self.on_train_batch_end(trainer, pl_module, None, None, -1)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx + 1) == self.where:
            self.act()


def crash():
    raise Crash


def told(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)


@pytest.fixture
def interrupted(monkeypatch, launch):
    """Launch, and let `act` happen in a step of an epoch; what it raised."""

    def interrupted(words, epoch, step, act, folder="parts"):
        build_trainer = runs.build_trainer

        def build(cfg, path):
            trainer = build_trainer(cfg, path)
            trainer.callbacks.insert(0, At(epoch, step, act))
            return trainer

        with monkeypatch.context() as patch, pytest.raises((Crash, SystemExit)) as stop:
            patch.setattr(runs, "build_trainer", build)
            launch(*words, folder=folder)
        return stop.value

    return interrupted


@pytest.mark.parametrize("method", RESUMED)
def test_resumed_equals_uninterrupted(interrupted, tmp_path, launch, method):
    """Told to stop within the first epoch; killed within the second, which begins anew; killed before the third."""
    words = (f"method={method.split()[0]}", *method.split()[1:], *FOUR_STEPS)
    whole, metrics = launch(*words, folder="whole")
    assert interrupted(words, 0, 2, told).code == 75
    assert isinstance(interrupted(words, 1, 3, crash), Crash)
    assert isinstance(interrupted(words, 2, 0, crash), Crash)
    assert not (tmp_path / "parts" / "metrics.json").exists()
    parts, resumed = launch(*words, folder="parts")
    assert resumed == metrics
    same(whole, parts)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_told_to_stop_in_any_step(interrupted, launch, step, epoch, tmp_path, capsys):
    words = ("method=faal", *FOUR_STEPS)
    whole, metrics = launch(*words, folder="whole")
    assert interrupted(words, epoch, step, lambda: told(signal.SIGTERM)).code == 75
    assert "Told to stop" in capsys.readouterr().out
    saved = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4 * epoch + step and saved["epoch"] == epoch
    assert ("within" in saved) == (step < 4)
    assert launch(*words, folder="parts")[1] == metrics
    same(whole, tmp_path / "parts")


def test_told_to_stop_in_a_validation(interrupted, launch, tmp_path, monkeypatch):
    """Lightning's own handler would end the command there, with exit code 0 and nothing saved."""
    words = ("method=pgd_at", "data.train_size=400", "data.eval_batch_size=8", "data.batch_size=100")
    whole, metrics = launch(*words, folder="whole")

    def at_once(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if trainer.current_epoch == 1 and batch_idx == 2:
            told(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(At, "on_validation_batch_end", at_once)
        assert interrupted(words, 9, 9, None).code == 75
    assert launch(*words, folder="parts")[1] == metrics
    same(whole, tmp_path / "parts")


def same(whole: Path, parts: Path) -> None:
    assert rows(whole) == rows(parts)
    a, b = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (whole, parts))
    for key in ("state_dict", "current_model_state"):
        assert (key in a) == (key in b)
        for name, value in a.get(key, {}).items():
            assert torch.allclose(value, b[key][name], rtol=0, atol=0, equal_nan=True), name
    for key in ("optimizer_states", "lr_schedulers", "loops"):
        assert alike(a[key], b[key]), key
    assert a["global_step"] == b["global_step"]


def alike(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def rows(folder: Path) -> list[str]:
    """The history without its clocks."""
    lines = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    clock = lines[0].index("seconds")
    return [",".join(cells[:clock] + cells[clock + 2 :]) for cells in lines]
