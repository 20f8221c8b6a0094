"""A run that is stopped anywhere ends in the bits of one that was not, history included."""

import errno
import io
import json
import os
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import SMALL, call, options, quick_for, refused, same
from lightning.pytorch.callbacks import Callback

from fairat_lightning.data import DataModule
from fairat_lightning.methods.base import Method
from fairat_lightning.running.checkpoints import FORMAT, Last, Whole, intact
from fairat_lightning.running.resume import PARTS, check_resumable, resumable
from fairat_lightning.running.signals import SIGNALS
from fairat_lightning.training import run as runs
from fairat_lightning.training.callbacks import Keep

AVERAGED = ("averaging=ema", "averaging=swa averaging.start=0.3", "averaging=fawa averaging.threshold=0.0 averaging.start=0.0")
RESUMED = [
    *options("method"),
    "faal method.memory=0.9",
    "dafa method.warmup=0.3",
    "floor averaging=ema method.memory=0.9 method.augmentation=cutout",
    "cfol method.sampling=uniform",
    "fairat averaging=ema method.augmentation=cutout",
    "fair_tat trainer.accumulate_grad_batches=2",
    *(f"pgd_at {average} head=balanced" for average in AVERAGED),
]
STATEFUL = [  # of whose state the others have a part
    *("cfa", "cfol", "wat", "csr", "faal method.memory=0.9", "fair_tat trainer.accumulate_grad_batches=2"),
    *("fairat averaging=ema method.augmentation=cutout", "floor averaging=ema method.memory=0.9 method.augmentation=cutout"),
    RESUMED[-2],
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

        def build(cfg, path, **rest):
            trainer = build_trainer(cfg, path, **rest)
            trainer.callbacks.insert(0, At(epoch, step, act))
            return trainer

        with monkeypatch.context() as patch, pytest.raises((Crash, SystemExit)) as stop:
            patch.setattr(runs, "build_trainer", build)
            launch(*words, folder=folder)
        return stop.value

    return interrupted


@pytest.mark.parametrize("method", quick_for(RESUMED, *STATEFUL))
def test_resumed_equals_uninterrupted(interrupted, tmp_path, trained, launch, method):
    """Told to stop within the first epoch; killed within the second, which begins anew; killed before the third."""
    words = (f"method={method.split()[0]}", *method.split()[1:], *FOUR_STEPS)
    whole, metrics = trained(*words)
    assert interrupted(words, 0, 2, told).code == 75
    assert isinstance(interrupted(words, 1, 3, crash), Crash)
    assert isinstance(interrupted(words, 2, 0, crash), Crash)
    assert not (tmp_path / "parts" / "metrics.json").exists()
    parts, resumed = launch(*words, folder="parts")
    assert resumed == metrics
    same(whole, parts)


@pytest.mark.parametrize("links", [True, False])
def test_the_best_of_an_epoch_that_is_lost_does_not_stay(monkeypatch, tmp_path, launch, links):
    """Killed between the two files of the second epoch, which is repeated to other bits, and is not the best any more."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    candidates, scores = Keep._monitor_candidates, {0: 0.5, 1: 0.6}

    def scored(self, trainer):
        return candidates(self, trainer) | {"val/select": torch.tensor(scores[trainer.current_epoch])}

    def killed(self, trainer, position=None):
        if trainer.current_epoch == 1:
            assert (checkpoints / "replaced.ckpt").exists() and intact(checkpoints / "best.ckpt")
            crash()
        save(self, trainer, position)

    monkeypatch.setattr(Keep, "_monitor_candidates", scored)
    words, save, checkpoints = ("method=pgd_at", *SMALL, "select=sum"), Last.save, tmp_path / "parts" / "checkpoints"
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Last, "save", killed)
        launch(*words, folder="parts")
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["epoch"] == 1
    scores[1] = 0.4
    launch(*words, folder="parts")
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["epoch"] == 0
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["selected_epoch"] == 0
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


SELDOM = [
    "method=frl select=last",
    "method=faal averaging=ema select=sum",
    "head=balanced select=last",
    "method=cfa select=sum_1se",
]


@pytest.mark.parametrize("words", quick_for(SELDOM, SELDOM[1]))
def test_resumed_equals_uninterrupted_where_not_every_epoch_is_validated(interrupted, tmp_path, trained, launch, words):
    """Told and killed before there is a best.ckpt by validation, within an epoch without one, and in the last epoch."""
    words = (*words.split(), *FOUR_STEPS, "val_every=2")
    whole, metrics = trained(*words)
    assert interrupted(words, 0, 2, told).code == 75
    assert isinstance(interrupted(words, 1, 1, crash), Crash)
    assert interrupted(words, 2, 3, told).code == 75
    assert launch(*words, folder="parts")[1] == metrics
    same(whole, tmp_path / "parts")


@pytest.mark.parametrize("epoch,step", quick_for([(0, 1), (0, 4), (1, 2), (1, 3), (2, 4)], (0, 4), (1, 2), (2, 4)))
def test_told_to_stop_in_any_step(interrupted, trained, launch, step, epoch, tmp_path, capsys):
    words = ("method=faal", *FOUR_STEPS)
    whole, metrics = trained(*words)
    assert interrupted(words, epoch, step, lambda: told(signal.SIGTERM)).code == 75
    assert "Stopped: the run is saved" in capsys.readouterr().out
    saved = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4 * epoch + step and saved["epoch"] == epoch
    assert ("within" in saved) == (step < 4)
    assert launch(*words, folder="parts")[1] == metrics
    same(whole, tmp_path / "parts")


@pytest.fixture
def heard():
    """Ctrl-C is heard, also where the tests run in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", quick_for([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], signal.SIGINT))
@pytest.mark.parametrize("where", ["on_train_start", "on_validation_batch_end"])
def test_told_to_stop_where_lightning_would_listen(monkeypatch, interrupted, trained, launch, tmp_path, where, number):
    """Its own handlers would end these unsaved: of SIGTERM with exit code 0, of Ctrl-C with 1."""
    words = ("method=pgd_at", *FOUR_STEPS, "data.eval_batch_size=16")  # several batches to validate
    whole, metrics = trained(*words)

    def tell(self, trainer, *args):
        if trainer.state.fn == "fit" and not told_once:
            told_once.append(told(number))

    told_once = []
    with monkeypatch.context() as patch:
        patch.setattr(At, where, tell)
        assert interrupted(words, -1, 0, crash).code == 75
    assert launch(*words, folder="parts")[1] == metrics
    same(whole, tmp_path / "parts")


@pytest.mark.parametrize("state", ["RUNNING", ""])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_submitit_queues_again_what_is_saved(monkeypatch, interrupted, tmp_path, number, state):
    """Unless SLURM is ending the job by itself."""
    queued = []

    def queue(number, frame):
        saved = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
        queued.append((number, saved["global_step"]))

    before = signal.signal(signal.SIGUSR2, queue)
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho {state}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    try:
        assert interrupted(FOUR_STEPS, 0, 2, lambda: told(number)).code == (75 if state else -1)
        assert queued == ([(signal.SIGUSR2, 2)] if state else []) and signal.getsignal(signal.SIGUSR2) is queue
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_the_checkpoint_before_is_used_where_the_last_one_is_damaged(interrupted, trained, launch, tmp_path, capsys):
    words = ("method=fairat", *FOUR_STEPS)
    whole, metrics = trained(*words)
    interrupted(words, 2, 2, told)
    last, previous = (tmp_path / "parts/checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    good = last.read_bytes()
    for damage in (good[: len(good) // 2], good[:-200] + bytes(200), b"", flipped(good)):
        last.write_bytes(damage)
        assert not intact(last) and resumable(tmp_path / "parts") == previous
    capsys.readouterr()
    assert launch(*words, folder="parts")[1] == metrics
    assert "last.ckpt is missing or damaged: continuing from the checkpoint before it" in capsys.readouterr().out
    same(whole, tmp_path / "parts")


def flipped(content: bytes) -> bytes:
    """One bit of a tensor's numbers is wrong, and the file reads as ever."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entry = max((e for e in file.infolist() if "/data/" in e.filename), key=lambda e: e.file_size)
    content = bytearray(content)
    content[entry.header_offset + 64 + len(entry.filename) + entry.file_size // 2] ^= 1
    torch.load(io.BytesIO(content), weights_only=True)
    return bytes(content)


def test_what_cannot_be_gone_on_from_is_one_line(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    assert resumable(tmp_path / "run") is None
    Whole().save_checkpoint({"format": FORMAT, "epoch": 1}, folder / "last.ckpt")
    assert resumable(tmp_path / "run") == folder / "last.ckpt" and not (folder / "previous.ckpt").exists()
    Whole().save_checkpoint({"format": FORMAT, "epoch": 2}, folder / "last.ckpt")
    assert torch.load(folder / "previous.ckpt")["epoch"] == 1 and torch.load(folder / "last.ckpt")["epoch"] == 2
    (folder / "last.ckpt").write_bytes(b"")
    Whole().save_checkpoint({"format": FORMAT, "epoch": 3}, folder / "last.ckpt")
    assert torch.load(folder / "previous.ckpt")["epoch"] == 1, "a damaged file never takes a whole one's place"
    (folder / "best.ckpt").write_bytes(b"half")
    with pytest.raises(ValueError, match="best.ckpt is damaged: set overwrite=true"):
        resumable(tmp_path / "run")
    (folder / "best.ckpt").unlink()
    Whole().save_checkpoint({"format": FORMAT - 1}, folder / "last.ckpt")
    with pytest.raises(ValueError, match="another version"):
        resumable(tmp_path / "run")
    Whole().save_checkpoint({"format": FORMAT, "x": Malicious(tmp_path / "ran")}, folder / "last.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of a run"):
        resumable(tmp_path / "run")
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes(b"half")
    with pytest.raises(ValueError, match="last.ckpt is damaged"):
        resumable(tmp_path / "run")
    assert not (tmp_path / "ran").exists()


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_full_disk_leaves_the_checkpoints_before_it(interrupted, compose, trained, launch, tmp_path, monkeypatch, capsys):
    words = ("method=faal", *FOUR_STEPS)
    whole, metrics = trained(*words)
    fsync, count = os.fsync, []

    def full(descriptor):
        count.append(1)
        if len(count) == 4:  # best and last of two epochs
            raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(os, "fsync", full)
        launch(*words, folder="parts")
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err and "continues from" in err and err.count("\n") == 1
    assert all(intact(path) for path in (tmp_path / "parts/checkpoints").iterdir())  # no part of one is left
    assert launch(*words, folder="parts")[1] == metrics
    same(whole, tmp_path / "parts")


def test_a_base_is_read_at_a_fresh_start_only_and_is_in_the_record(interrupted, trained, launch, tmp_path):
    base, _ = launch(*FOUR_STEPS, folder="base")
    words = ("method=faal", f"init_from={base}", *FOUR_STEPS)
    whole, metrics = trained(*words)
    found = json.loads((whole / "run.json").read_text())["init_from"]
    tested = json.loads((base / "samples.jsonl").read_text().splitlines()[0])
    assert found == {"path": str(base), "weights": tested["weights"]}
    interrupted(words, 1, 2, told)
    shutil.rmtree(base)
    assert launch(*words, folder="parts")[1] == metrics
    same(whole, tmp_path / "parts")
    record = json.loads((tmp_path / "parts/run.json").read_text())
    assert record["init_from"] == found and "init_from" not in record["resumed"][0]


def test_told_to_stop_in_the_test_it_is_tested_anew(launch, tmp_path, monkeypatch):
    whole, metrics = launch(*FOUR_STEPS, folder="whole")
    step = Method.test_step
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Method, "test_step", lambda *args: told(signal.SIGTERM) or step(*args))
        launch(*FOUR_STEPS, folder="parts")
    assert stop.value.code == 75 and not (tmp_path / "parts/metrics.json").exists()
    assert launch(*FOUR_STEPS, folder="parts")[1] == metrics
    same(whole, tmp_path / "parts")


def test_within_an_epoch_it_saves_by_the_clock(launch, monkeypatch):
    saved, save = [], Last.save
    monkeypatch.setattr(Last, "save", lambda *args: saved.append(args[2] if len(args) > 2 else None) or save(*args))
    launch(*FOUR_STEPS, "save_minutes=1e-9")
    assert saved == [p for epoch in range(3) for p in [*((epoch, k) for k in (1, 2, 3)), None]]
    saved.clear()
    launch(*FOUR_STEPS, folder="seldom")
    assert saved == [None] * 3


def test_the_signals_are_given_back(launch):
    before = [signal.getsignal(s) for s in SIGNALS]
    launch()
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_loggers_get_every_epoch_of_a_run_that_was_told_to_stop(interrupted, launch, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("logger=tensorboard", *FOUR_STEPS)
    assert interrupted(words, 1, 4, told).code == 75  # in the epoch's last step: saved after its validation
    assert interrupted(words, 2, 2, told).code == 75
    launch(*words, folder="parts")
    events = EventAccumulator(str(tmp_path / "parts" / "tensorboard"))
    events.Reload()
    for key in ("train/loss", "val/robust"):
        assert sorted({event.step for event in events.Scalars(key)}) == [3, 7, 11], key


def test_a_loader_of_ones_own_is_saved_at_the_end_of_the_epoch_alone(interrupted, launch, tmp_path, monkeypatch):
    """torch's own cannot continue within an epoch."""

    def plain(self):
        rows = [(x / 255, y, k) for k, (x, y) in enumerate(zip(self.train.pixels, self.train.targets, strict=True))]
        return torch.utils.data.DataLoader(rows, batch_size=self.batch_size)

    monkeypatch.setattr(DataModule, "train_dataloader", plain)
    assert interrupted(FOUR_STEPS, 1, 2, told).code == 75
    saved = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 8 and "within" not in saved
    launch(*FOUR_STEPS, folder="parts")


def test_in_float64_it_goes_on_in_the_same_bits(interrupted, trained, launch, tmp_path):
    words = (*FOUR_STEPS, "averaging=ema", "trainer.precision=64-true")
    whole, metrics = trained(*words)
    interrupted(words, 1, 2, told)
    assert launch(*words, folder="parts")[1] == metrics
    same(whole, tmp_path / "parts")


STOPPING = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: %s, patience: 1, min_delta: 9, mode: max}"


def test_a_training_that_a_callback_has_ended_stays_ended(launch, tmp_path, monkeypatch):
    words = (*FOUR_STEPS, "trainer.max_epochs=9", f"callbacks=[{STOPPING % 'val/robust'}]")
    whole, metrics = launch(*words, folder="whole")
    step = Method.test_step
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Method, "test_step", lambda *args: told(signal.SIGTERM) or step(*args))
        launch(*words, folder="parts")
    parts, resumed = launch(*words, folder="parts")
    epochs = [len((folder / "history.csv").read_text().splitlines()) - 1 for folder in (whole, parts)]
    assert epochs == [2, 2] and resumed == metrics
    assert json.loads((parts / "run.json").read_text())["stopped_after_epochs"] == 2
    same(whole, parts)


@pytest.mark.parametrize("monitor, epochs", [("val/robust", 4), ("train/loss", 2)])
def test_a_callback_that_ends_a_training_knows_validations_and_there_is_a_best_epoch(launch, monitor, epochs):
    """With val_every=2 the second look at the validation is at the fourth epoch; with 5 a training may end before the first."""
    every = 2 if monitor == "val/robust" else 5
    folder, _ = launch("trainer.max_epochs=9", f"val_every={every}", f"callbacks=[{STOPPING % monitor}]")
    facts = json.loads((folder / "run.json").read_text())
    assert facts["stopped_after_epochs"] == epochs and len((folder / "history.csv").read_text().splitlines()) == 1 + epochs


def test_with_overwrite_the_line_does_not_promise_that_the_same_command_continues(tmp_path, monkeypatch, capsys):
    words = (*SMALL, *FOUR_STEPS, "overwrite=true", "hydra.run.dir=mine")
    begin = Last.on_train_epoch_start

    def telling(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            told()
        begin(self, trainer, pl_module)

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with monkeypatch.context() as patch:
        patch.setattr(Last, "on_train_epoch_start", telling)
        code, out, _ = call(patch, capsys, tmp_path, *words)
    assert code == 75 and "the same command without overwrite=true continues it" in out
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # SLURM gives the same command again by itself
    code, out, _ = call(monkeypatch, capsys, tmp_path, *words)
    assert code == 0 and "epoch   1/3" not in out and "epoch   3/3" in out
    assert "This run is finished" in call(monkeypatch, capsys, tmp_path, *words)[1]
    monkeypatch.setenv("SLURM_JOB_ID", "8")  # another job, which was queued again before it came to this run
    assert "epoch   1/3" in call(monkeypatch, capsys, tmp_path, *words)[1]


def test_averages_that_the_test_would_not_take_are_refused(tmp_path, monkeypatch, capsys):
    words = ("callbacks=[{_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.9}]", "hydra.run.dir=mine")
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, *words)
    refused(code, err, "averaging=ema")
    assert not (tmp_path / "mine").exists()


def test_checkpoints_on_another_disk_are_replaced_with_the_run(launch, compose, tmp_path):
    folder, _ = launch()
    (folder / "checkpoints").rename(tmp_path / "elsewhere")
    (folder / "checkpoints").symlink_to(tmp_path / "elsewhere")
    launch("overwrite=true")
    assert (folder / "checkpoints").is_symlink()
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}


def test_a_checkpoint_without_some_of_the_methods_state_is_refused_and_one_with_more_is_not(tmp_path):
    """More: what a method registers in its setup or its first step. Without: of a version whose method was another."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    state = {"net.weight": torch.ones(2), "costs": torch.ones(3), "_extra_state": {"any": 1}}
    torch.save(dict.fromkeys(PARTS) | {"state_dict": state, "within": {"position": [0]}}, path)
    for held in (("net.weight",), ("net.weight", "costs"), tuple(state)):
        check_resumable(tmp_path, path, {name: state[name] for name in held})
    for other in ({"class_weight": torch.ones(3)}, {"net.weight": torch.ones(4)}, {"net.bias": torch.ones(2)}):
        with pytest.raises(ValueError, match="does not hold this run's network and method"):
            check_resumable(tmp_path, path, state | other)
