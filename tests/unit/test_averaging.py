import copy

import lightning as L
import pytest
import torch
from helpers import SMALL
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fairat_lightning.averaging import EMA, FAWA, SWA
from fairat_lightning.config.compose import resolved
from fairat_lightning.training import run as runs


class Module(L.LightningModule):
    """One weight that follows a known path: step k sets it by SGD on a constant gradient."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
        self.register_buffer("own", torch.zeros(1))

    def training_step(self, batch, _):
        self.own += 1
        self.trace = [*getattr(self, "trace", []), copy.deepcopy(self.net.state_dict())]
        return self.net(batch[0]).square().mean() + self.net[0].weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


def test_the_average_by_hand_and_the_methods_own_state_as_it_is(tmp_path):
    module, decay = Module(), 0.35  # reached after the warm-up's (1 + t) / (10 + t)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[EMA(decay)],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(24, 1)), batch_size=4))
    (path,) = tmp_path.rglob("*.ckpt")
    saved = torch.load(path, weights_only=True)
    states = [*module.trace[1:], {k.removeprefix("net."): v for k, v in saved["current_model_state"].items()}]
    average = copy.deepcopy(states[0])  # the first update copies
    for t, state in enumerate(states[1:], start=1):
        d = min(decay, (1 + t) / (10 + t))
        for name in average:
            value = state[name]
            average[name] = value if not value.is_floating_point() else d * average[name] + (1 - d) * value
    for name in average:
        torch.testing.assert_close(saved["state_dict"][f"net.{name}"], average[name])
    assert saved["state_dict"]["own"] == saved["current_model_state"]["own"] == 6


@pytest.mark.parametrize("change", ["update", "_swap_models", "_copy_average_to_current"])
def test_within_autocast_a_forward_sees_the_weights_that_were_changed_in_place(change):
    """Autocast's cache of casts is on in a loop of one's own; Lightning switches it off."""
    module, callback, x = Module(), SWA(0.0), torch.ones(4, 1)
    callback._average_model = torch.optim.swa_utils.AveragedModel(Module().requires_grad_(True))
    average = callback._average_model.module.net
    with torch.no_grad():
        module.net[0].weight.fill_(3.0)
        average[0].weight.fill_(7.0)
    seen = average if change == "update" else module.net
    with torch.autocast("cpu", torch.bfloat16):
        seen[0](x)
        getattr(callback, change)(module)
        assert (seen[0](x) == (3.0 if change == "update" else 7.0)).all()


@pytest.mark.parametrize("decay", [1.0, -0.1, "slow"])
def test_wrong_decay_is_named(decay):
    with pytest.raises(ValueError, match="averaging.decay"):
        EMA(decay)


def test_the_default_decay_does_not_leave_a_short_run_untrained(launch):
    """At 60 steps of a constant .9995, 97 % of the average would be the initial weights."""
    words = ("method=pgd_at", "data.train_size=200", "trainer.max_epochs=10", "optim.lr=0.02", "optim.milestones=[]")
    plain = launch(*words, folder="plain")[1]["clean"]["average"]
    average = launch(*words, "averaging=ema", folder="ema")[1]["clean"]["average"]
    assert plain > 0.7 and average > plain - 0.1


class Robust(Module):
    """A module whose weight is its number of steps, and whose worst class on validation is what `robust` says, epoch by epoch."""

    def __init__(self, robust=()):
        super().__init__()
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.net.weight)
        self.robust, self.asked, self.seen = robust, [], []

    def training_step(self, batch, _):
        return -self.net.weight.sum()

    def validation_step(self, batch, _):
        if self.trainer.state.fn == "fit":
            self.seen.append(self.net.weight.item())

    def validation_robust(self):
        self.asked.append(self.net.weight.item())
        return torch.tensor([torch.nan, 0.9, self.robust[self.current_epoch]])

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=1.0)


def trained(module, callback, tmp_path, epochs=4, resume=None):
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[callback, ModelCheckpoint(tmp_path, save_last=True, save_top_k=-1, filename="{epoch}")],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    loader = DataLoader(TensorDataset(torch.ones(8, 1)), batch_size=4)  # two steps an epoch: weights 2, 4, 6, 8
    trainer.fit(module, loader, DataLoader(TensorDataset(torch.ones(1, 1))), ckpt_path=resume)
    return module


def test_swa_is_the_mean_of_the_last_epochs_and_a_copy_before(tmp_path):
    module = trained(Robust(), SWA(0.5), tmp_path)
    assert module.seen == [2, 4, 6, 7]  # epochs 0 and 1: a copy; then 6, and the mean of 6 and 8
    assert module.net.weight.item() == 7


@pytest.mark.parametrize("start,expected", [(0.0, [2, 2, 3, 3]), (0.25, [2, 4, 6, 6])])
def test_fawa_takes_the_epochs_whose_current_weights_pass(tmp_path, start, expected):
    """Worst classes .3, .1, .2, .19 at a threshold of .2: the first and the third pass, the third if the first is too early."""
    module = trained(Robust((0.3, 0.1, 0.2, 0.19)), FAWA(decay=0.75, threshold=0.2, start=start), tmp_path)
    assert module.seen == expected
    assert module.asked == [2, 4, 6, 8][round(4 * start) :]  # the current weights, not the average


def test_fawa_that_no_epoch_passes_is_the_current_weights(tmp_path):
    module = trained(Robust((0.1,) * 4), FAWA(decay=0.75, threshold=0.2, start=0.0), tmp_path)
    assert module.seen == [2, 4, 6, 8]


def test_fawa_goes_on_where_it_was_stopped(tmp_path):
    gate = (0.3, 0.1, 0.2, 0.5)
    whole = trained(Robust(gate), FAWA(decay=0.75, threshold=0.2, start=0.0), tmp_path / "whole")
    resumed = trained(Robust(gate), FAWA(0.75, 0.2, 0.0), tmp_path / "again", resume=tmp_path / "whole" / "epoch=1.ckpt")
    assert resumed.seen == whole.seen[2:]


def test_the_methods_own_state_is_never_averaged_nor_swapped(launch):
    """After the training FairAT's record of the hard images is the last epoch's, with an average as without."""
    import numpy as np

    words = ("method=fairat", "method.augmentation=cutout", "trainer.max_epochs=3")
    folders = [launch(*words, f"averaging={a}", folder=a)[0] for a in ("none", "ema")]
    plain, averaged = (np.load(folder / "hardest.npz") for folder in folders)
    for name in plain.files:
        np.testing.assert_array_equal(plain[name], averaged[name])


@pytest.mark.parametrize("call,name", [(lambda v: SWA(v), "start"), (lambda v: FAWA(0.5, v, 0.1), "threshold")])
@pytest.mark.parametrize("value", [1.0, -0.1, "late", True])
def test_wrong_shares_are_named(call, name, value):
    with pytest.raises(ValueError, match=f"averaging.{name}"):
        call(value)


@pytest.mark.parametrize(
    "average", ["ema averaging.decay=0.9", "swa averaging.start=0.0", "fawa averaging.start=0.0 averaging.threshold=0.0"]
)
def test_a_run_tests_the_average_and_not_the_current_weights(compose, tmp_path, average):
    words = (*SMALL, "method=pgd_at", *f"averaging={average}".split(), "trainer.max_epochs=3", "select=average")
    job = runs.prepare(OmegaConf.create(resolved(compose(*words))), tmp_path / "run")
    runs.execute(job)
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    tested = {f"net.{name}": value for name, value in job.method.net.state_dict().items()}
    assert all(torch.equal(value, best["state_dict"][name]) for name, value in tested.items())
    if best["epoch"]:
        assert any(not torch.equal(value, best["current_model_state"][name]) for name, value in tested.items())
