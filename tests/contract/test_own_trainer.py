"""Methods in a Lightning `Trainer` of one's own, without anything of the commands around them."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fairat_lightning as fl
from fairat_lightning.data import Indexed

QUIET = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)


@pytest.fixture
def trainer(tmp_path):
    return lambda **words: L.Trainer(accelerator="cpu", default_root_dir=tmp_path, **QUIET, **words)


def images(count):
    return torch.rand(count, 1, 4, 4), torch.arange(count) % 3


def loader(x, y, **words):
    return DataLoader(Indexed(TensorDataset(x, y)), **{"batch_size": 8, **words})


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("name", ["faal", "trades", "dafa"])
def test_a_method_in_a_trainer_of_ones_own(name, trainer):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    module = fl.method(name, net, classes=["a", "b", "c"], eps="8/255", overrides=["optim.lr=0.05"])
    before = net[1].weight.clone()
    trainer(max_epochs=2).fit(module, loader(*images(32), shuffle=True))
    assert not torch.equal(before, net[1].weight) and module.attack.eps == pytest.approx(8 / 255)
    with pytest.raises(ValueError, match="unknown"):
        fl.method("fal", net, classes=3, eps=0.1)


def test_a_foreign_loaders_batches_are_checked_before_they_go_to_the_device(trainer):
    (x, y), one = images(32), trainer(max_epochs=1)
    module = lambda: fl.method("faal", nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), classes=3, eps=0.1)  # noqa: E731
    for wrong, said in (((x * 255, y), "must lie in"), ((x, y + 1), "labels from 1 to 3"), ((x, y.float()), "whole numbers")):
        with pytest.raises(ValueError, match=said):
            one.fit(module(), loader(*wrong, batch_size=32))
    one.fit(module(), loader((x * 255).to(torch.uint8), y, batch_size=32))


@pytest.mark.parametrize("name, part", [("fairat", ["method.subset=all"]), ("floor", ["method.hard_fraction=1.0"])])
def test_augmentation_is_drawn_anew_in_each_epoch_and_process(name, part, trainer):
    """Only the commands' Trainer seeds each epoch: elsewhere every epoch once had the same random numbers."""
    data = fl.load_data(["data=digits", "data.train_size=100", "data.batch_size=50"])
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    module = fl.method(name, net, classes=10, eps=0.1, num_samples=100, overrides=[*part, "method.augmentation=cutout"])
    seeds, steps = [], []

    def augment(x, generator):
        seeds.append(generator.initial_seed())
        return x

    module.hard.augment = augment
    module.on_train_batch_start = lambda batch, batch_idx: steps.append((batch, batch_idx))
    trainer(max_epochs=3).fit(module, data)
    assert len(seeds) == len(set(seeds)) == 2 * 3
    (x, _, index), place = steps[0]
    for rank in (0, 1):
        one = SimpleNamespace(callbacks=[], current_epoch=1, world_size=2, global_rank=rank)
        module.hard(x.float(), index, place, SimpleNamespace(trainer=one))
    assert seeds[-1] != seeds[-2]


def normalised():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("ended", [True, False])
def test_decosam_gives_the_network_back_as_it_was(ended, trainer):
    """Its layers once stayed frozen, and the next method trained the last one alone."""
    net, (x, y) = normalised(), images(16)
    net[1].bias.requires_grad_(False)
    if ended:
        trainer(max_epochs=1).fit(fl.method("decosam", net, classes=3, eps=0.1), loader(x, y))
    else:
        with pytest.raises(ValueError, match="give the Trainer max_epochs"):
            trainer(max_steps=4).fit(fl.method("decosam", net, classes=3, eps=0.1), loader(x, y))
    assert [name for name, weights in net.named_parameters() if not weights.requires_grad] == ["1.bias"]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trainer(max_epochs=1).fit(fl.method("faal", net, classes=3, eps=0.1), loader(x, y))
    assert [name for name, value in net.state_dict().items() if torch.equal(before[name], value)] == ["1.bias"]


def test_a_network_that_comes_in_eval_mode_is_trained_in_train_mode(trainer):
    """`load_run` gives it so, and its batch norms once counted nothing."""
    net = normalised().eval()
    trainer(max_epochs=1).fit(fl.method("pgd_at", net, classes=3, eps=0.1), loader(*images(16)))
    assert net[2].num_batches_tracked > 0


def test_a_teacher_may_be_trained_afterwards(trainer):
    teacher, net = network(), network()
    trainer(max_epochs=1).fit(fl.method("absld", net, classes=3, eps=0.1, teacher=teacher), loader(*images(16)))
    assert all(weights.requires_grad and weights.grad is None for weights in teacher.parameters())


def test_the_rate_of_absld_falls_in_the_epoch_that_lowers_the_learning_rate_as_in_the_released_loop(trainer):
    """There both fall at the end of epoch 215, counted from 1, before the temperatures move."""
    words = ["optim=multistep", "optim.milestones=[0.5]", "optim.gamma=0.1"]
    module, rates = fl.method("absld", network(), classes=3, eps=0.1, teacher=network(), overrides=words), []
    module.adjust = lambda risks, rate: rates.append(rate / module.rate)
    trainer(max_epochs=4).fit(module, loader(*images(8)))
    assert rates == pytest.approx([1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("name", ["pgd_at", "dafa", "ham", "decosam"])
def test_a_trainer_that_counts_steps_alone_is_refused(name, trainer):
    """Learning rates and warm-ups are shares of the epochs: -1 of them once made every share pass at once."""
    with pytest.raises(ValueError, match="max_epochs=-1: give the Trainer max_epochs"):
        trainer(max_steps=4).fit(fl.method(name, network(), classes=3, eps=0.1), loader(*images(16)))
