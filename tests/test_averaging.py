import copy

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fairat_lightning.averaging import EMA


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
