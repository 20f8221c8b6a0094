import json
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import SMALL

from fairat_lightning.commands.one_run import run
from fairat_lightning.methods import AdversarialTraining
from fairat_lightning.running.errors import Diverged
from fairat_lightning.training import nonfinite
from fairat_lightning.training.nonfinite import Finite


def test_finite_names_the_step_and_reads_the_device_rarely(monkeypatch):
    reads = []
    monkeypatch.setattr(nonfinite, "global_sum", lambda value: reads.append(1) or value)
    finite, module, run = Finite("stop"), SimpleNamespace(device="cpu"), SimpleNamespace(current_epoch=2)
    finite.on_train_epoch_start(run, module)
    for step in range(60):
        finite.on_train_batch_end(run, module, {"loss": torch.tensor(1.0 if step < 57 else torch.nan)}, None, step)
    assert len(reads) == 1
    with pytest.raises(Diverged, match="in step 58 of epoch 3"):
        finite.on_train_epoch_end(run, module)


@pytest.fixture
def spoil(monkeypatch):
    """Make the loss, a gradient or a weight nan or infinite in these steps (from 0) of an epoch."""

    def spoil(what, epoch, steps):
        step, after = AdversarialTraining.training_step, AdversarialTraining.on_after_backward

        def training_step(self, batch, batch_idx):
            self.spoilt = self.current_epoch == epoch and batch_idx in steps
            loss = step(self, batch, batch_idx)
            return loss * torch.nan if what == "loss" and self.spoilt else loss

        def on_after_backward(self):
            after(self)
            (last,) = (p for name, p in self.named_parameters() if name.endswith("linear.weight"))
            if self.spoilt and what == "gradient":
                last.grad[0, 0] = torch.inf
            if self.spoilt and what == "weight":
                last.data[0, 0] = torch.nan

        monkeypatch.setattr(AdversarialTraining, "training_step", training_step)
        monkeypatch.setattr(AdversarialTraining, "on_after_backward", on_after_backward)

    return spoil


@pytest.mark.parametrize("what", ["loss", "gradient", "weight"])
def test_a_diverged_run_is_one_line_and_keeps_its_last_good_checkpoint(spoil, compose, tmp_path, monkeypatch, capsys, what):
    step = 1 if what == "weight" else 0  # in the epoch's last step: it spoils no loss
    spoil(what, 1, {step})
    monkeypatch.setattr(sys, "argv", ["fairat_lightning"])
    with pytest.raises(SystemExit) as stop:
        run(compose(*SMALL), tmp_path / "run")
    assert stop.value.code == 1
    err = capsys.readouterr().err
    place = {"loss": "the loss is", "gradient": "linear.weight is", "weight": "linear.weight is"}[what]
    assert err.startswith(("error: the loss", "error: the gradient of net", "error: the weight net")) and err.count("\n") == 1
    assert place in err and f"in step {step + 1} of epoch 2" in err
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["epoch"] == 0
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("words", ["", "trainer.gradient_clip_val=1.0 averaging=ema", "trainer.accumulate_grad_batches=2"])
def test_a_skipped_step_is_said_and_spoils_nothing(spoil, launch, capsys, what, words):
    spoil(what, 1, {2})
    folder, _ = launch("data.batch_size=16", "on_nonfinite=skip", *words.split())
    assert capsys.readouterr().out.count("skipped a step: ") == 1
    assert json.loads((folder / "run.json").read_text())["skipped_steps"] == 1
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert all(v.isfinite().all() for v in last["state_dict"].values() if v.is_floating_point())
    assert "nan" not in (folder / "history.csv").read_text()


def test_a_skipped_step_changes_nothing(spoil, launch, monkeypatch):
    seen, end = [], Finite.on_train_batch_end

    def watch(self, trainer, module, *rest):
        end(self, trainer, module, *rest)
        optimiser = [v.clone() for s in trainer.optimizers[0].state.values() for v in s.values() if torch.is_tensor(v)]
        counts = [module.train_robust.sums.clone(), module.train_robust.counts.clone(), module.train_loss.sums.clone()]
        seen.append([v.detach().clone() for v in (*module.parameters(), *module.buffers())] + optimiser + counts)

    monkeypatch.setattr(Finite, "on_train_batch_end", watch)
    spoil("loss", 0, {1})
    launch("on_nonfinite=skip", "trainer.max_epochs=1", "method=pgd_at", "data.batch_size=16")
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[1], seen[2], strict=True))


def test_bad_steps_in_a_row_end_the_run(spoil, compose, tmp_path, capsys):
    spoil("gradient", 0, set(range(64)))
    with pytest.raises(SystemExit) as stop:
        run(compose(*SMALL, "data.batch_size=4", "on_nonfinite=skip"), tmp_path / "run")
    assert stop.value.code == 1 and "10 steps in a row were skipped" in capsys.readouterr().err
