"""The private names of other libraries are there and do what they are needed for: a version that changes one fails here."""

import subprocess
import sys

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.optim.swa_utils import AveragedModel
from torchmetrics import SumMetric

from fairat_lightning.running import lightning_internals as internals


class Steps(L.LightningModule):
    """A module that notes the step it is told to be at."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, batch_idx):
        self.seen.append(internals.step_of_epoch(self.trainer))
        return self.weight * batch.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options):
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **options)


def test_the_step_of_an_epoch_is_counted_from_1():
    module = Steps()
    trainer(max_epochs=2, enable_model_summary=False).fit(module, torch.utils.data.DataLoader(torch.ones(3), batch_size=1))
    assert module.seen == [1, 2, 3, 1, 2, 3]


def test_the_launcher_starts_processes_where_it_is_overridden():
    assert callable(_SubprocessScriptLauncher._call_children_scripts)
    started = []

    class Noted(internals.WatchedLauncher):
        def start(self, start_all):
            started.append(start_all)
            self.procs = [subprocess.Popen([sys.executable, "-c", ""])]

    built = trainer(strategy="ddp", devices=2)
    before = built.strategy.launcher
    assert isinstance(before, internals.ScriptLauncher) and before.procs == []
    internals.set_launcher(built, Noted(before.cluster_environment, before.num_processes, before.num_nodes))
    built.strategy.launcher._call_children_scripts()
    assert isinstance(built.strategy.launcher, Noted) and len(started) == 1 and built.strategy.launcher.procs[0].wait() == 0


def test_lightning_hears_no_signal():
    built = trainer()
    assert callable(built._signal_connector.register_signal_handlers)
    internals.leave_signals_alone(built)
    assert built._signal_connector.register_signal_handlers() is None


def test_an_average_is_exchanged_as_a_subclass_gives_it():
    """At the start and the end of a validation, and at the end of the training; the step is Lightning's own, in checkpoints."""
    calls = []

    class Noted(internals.PartialAveraging):
        def swap(self, pl_module):
            calls.append("swap")

        def take_average(self, pl_module):
            calls.append("take")

    module, noted = Steps(), Noted()
    module.validation_step = lambda batch, batch_idx: None
    batches = torch.utils.data.DataLoader(torch.ones(2), batch_size=1)
    options = {"num_sanity_val_steps": 0, "enable_model_summary": False}
    trainer(max_epochs=1, callbacks=[noted], **options).fit(module, batches, batches)
    assert calls == ["swap", "swap", "take"] and noted.last_step == 2
    assert isinstance(noted.average, AveragedModel) and isinstance(noted.average.module, Steps)
    noted.last_step = 7
    assert noted.state_dict() == {"latest_update_step": 7}
    noted.load_state_dict({"latest_update_step": 3})
    assert noted.last_step == 3
    noted.average = other = AveragedModel(module)
    assert noted.average is other


def test_updates_of_a_metric_are_counted():
    metric = SumMetric()
    internals.set_update_count(metric, 3)
    assert metric.update_count == 3 and metric.update_called


def test_a_wandb_logger_has_no_run_before_it_is_used(tmp_path):
    logger = WandbLogger(name="x", save_dir=tmp_path, project="y", mode="offline")
    assert internals.wandb_run(logger) is None and internals.wandb_settings(logger)["project"] == "y"
