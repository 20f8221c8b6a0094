"""What goes wrong in the middle of a run: put in by hand, one line each, and the run goes on afterwards."""

import errno
import resource
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import SMALL, call
from lightning import LightningModule
from omegaconf import OmegaConf

from fairat_lightning.commands.one_run import run
from fairat_lightning.config.compose import resolved
from fairat_lightning.config.loading import gpu_of
from fairat_lightning.data import DataModule, sets
from fairat_lightning.methods import AdversarialTraining
from fairat_lightning.methods.base import Method
from fairat_lightning.running.errors import Diverged, explain
from fairat_lightning.training import run as runs


def stopped(launch, capsys, *words, folder="run"):
    with pytest.raises(SystemExit) as stop:
        launch(*words, folder=folder)
    err = capsys.readouterr().err
    assert stop.value.code == 1 and err.startswith("error: ") and err.count("\n") == 1
    return err


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
)


@pytest.mark.parametrize("error", MEMORY, ids=["cuda", "cpu", "python"])
def test_out_of_memory_names_the_batch_size_and_what_to_change(launch, capsys, monkeypatch, error):
    monkeypatch.setattr(AdversarialTraining, "training_step", failing(error))
    said = stopped(launch, capsys)
    for word in ("data.batch_size=32", "data.batch_size=16", "trainer.accumulate_grad_batches=2", "checkpointing=true"):
        assert word in said
    assert "checkpointing" not in stopped(launch, capsys, "checkpointing=true", folder="less")


def test_out_of_memory_in_the_test_names_the_evaluation_s_batch_size(launch, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Method, "test_step", failing(MEMORY[0]))
        assert "data.eval_batch_size=500" in stopped(launch, capsys)
    launch()


def test_a_real_allocation_that_is_too_large(launch, capsys, monkeypatch):
    monkeypatch.setattr(AdversarialTraining, "training_step", lambda *args: torch.empty(2**60))
    assert "out of memory with data.batch_size=32" in stopped(launch, capsys)


@pytest.mark.parametrize("command, words", [("evaluate", "suite=quick"), ("balance", "to=b.ckpt")])
def test_a_full_memory_outside_of_training_is_one_line_too(launch, monkeypatch, capsys, tmp_path, command, words):
    def full(*args, **more):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    launch(folder="run")
    monkeypatch.setattr(
        f"fairat_lightning.{'evaluation.run.run_suite' if command == 'evaluate' else 'training.balance.balance'}", full
    )
    code, _, err = call(monkeypatch, capsys, tmp_path, f"checkpoint={tmp_path / 'run'}", words, command=command)
    assert code == 1 and err.startswith("error: out of memory: set a smaller ") and err.count("\n") == 1


def test_what_a_gpu_cannot_do_repeatably_is_one_line(compose):
    error = RuntimeError("adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set 'x'")
    line = explain(error, compose(*SMALL, "deterministic=true"), training=True)
    assert line is not None and line.startswith("deterministic=true is not possible with this network: adaptive_avg_pool2d")


class Module(LightningModule):
    pass


def test_apples_gpu_is_refused_before_anything_goes_there():
    module = SimpleNamespace(trainer=SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("mps"))))
    with pytest.raises(ValueError, match="accelerator='cpu'"):
        Method.configure_model(module)
    Method.configure_model(Module())  # without a Trainer, where weights are loaded


def test_a_run_on_processors_leaves_a_gpu_alone(compose, monkeypatch):
    """It looks at weights from elsewhere on the CPU, and pins no batch."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    for cfg, device in (
        ({"device": "cpu"}, "cpu"),
        ({"device": "auto"}, "cuda:3"),
        ({"trainer": {"accelerator": "cpu"}}, "cpu"),
        ({"trainer": {"accelerator": "auto"}}, "cuda:3"),
    ):
        assert gpu_of(OmegaConf.create(cfg)) == torch.device(device)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert gpu_of(OmegaConf.create({})) == torch.device("cuda:1")
    module = DataModule(sets.digits)
    module.prepare()
    assert not module.train_dataloader().pin_memory


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_history_that_cannot_be_written(launch, capsys, monkeypatch, number):
    with monkeypatch.context() as patch:
        patch.setattr("fairat_lightning.training.callbacks.write", failing(OSError(number, "why", "history.csv")))
        said = stopped(launch, capsys)
    assert "history.csv cannot be written: why" in said and "the same command continues" in said
    launch()


def test_the_data_may_vanish_once_it_is_read(compose, tmp_path, capsys, monkeypatch):
    from PIL import Image

    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(12):
                Image.new("RGB", (8, 8), (20 * i, 9, 9)).save(tmp_path / "set" / part / name / f"{i}.png")
    words = [w for w in SMALL if not w.startswith("data")]
    words += ["data=folder", f"data.root={tmp_path}/set", "data.image_size=8", "data.batch_size=4", "model=preactresnet_tiny"]
    cfg = compose(*words)
    job = runs.prepare(OmegaConf.create(resolved(cfg)), tmp_path / "run")
    shutil.rmtree(tmp_path / "set")
    runs.execute(job)
    assert (tmp_path / "run/metrics.json").exists()
    (tmp_path / "run/metrics.json").unlink()
    monkeypatch.setattr(sys, "argv", ["fairat_lightning"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:  # before a resume it is looked for
        run(cfg, tmp_path / "run")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "data.root=" in err and err.count("\n") == 1


def test_what_is_not_known_keeps_its_traceback(launch, monkeypatch):
    cfg = OmegaConf.create({"data": {"batch_size": 8}})
    assert explain(Diverged("x"), cfg, True) == "x"
    taken = "The server socket has failed to listen. port: 29511, useIpv6: false, code: -98, name: EADDRINUSE, message: in use"
    assert "port 29511 is used" in explain(torch.distributed.DistNetworkError(taken), cfg, True)
    assert explain(RuntimeError("a bug"), cfg, True) is None and explain(OSError(errno.EBADF, "x"), cfg, True) is None
    monkeypatch.setattr(AdversarialTraining, "training_step", failing(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        launch()


@pytest.mark.slow
def test_memory_does_not_grow_over_50_epochs(launch, monkeypatch):
    held = []

    def watch(self):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held.append(pages * resource.getpagesize() / 2**20)

    monkeypatch.setattr(AdversarialTraining, "on_train_epoch_start", watch)
    launch("trainer.max_epochs=50", "averaging=ema", "logger=tensorboard")
    assert len(held) == 50
    assert max(held[40:]) - max(held[5:15]) < 4, held  # MB
