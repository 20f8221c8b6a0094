from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn
from torch.utils.data import DataLoader

from fairat_lightning.attacks import PGD
from fairat_lightning.data import DataModule, Images
from fairat_lightning.data.batches import DrawnBatches
from fairat_lightning.methods import CFOL
from fairat_lightning.objectives import AT, TRADES


def method(objective=None, classes=4, counts=None, **kwargs):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    attack = PGD(eps=0.0, steps=1)  # crafts x itself
    values = {"eta": 0.3, "gamma": 0.5} | kwargs
    module = CFOL(net, classes, attack=attack, objective=objective or AT(), optim=None, **values)
    module.log = module.log_dict = lambda *_, **__: None
    counts = np.ones(classes) if counts is None else np.asarray(counts)
    module.share.copy_(torch.tensor(counts / counts.sum()))
    return module


def bandit(log_weight: np.ndarray, gamma: float, present: np.ndarray) -> np.ndarray:
    """p = gamma u + (1 - gamma) softmax(w) over the classes that the training set has."""
    p = np.zeros(len(log_weight))
    p[present] = gamma / present.sum() + (1 - gamma) * softmax(log_weight[present])
    return p


def batch(rng: np.random.Generator, classes: list[int], size: int = 12):
    return torch.tensor(rng.random((size, 3, 2, 2))), torch.tensor(rng.choice(classes, size)), torch.arange(size)


def logits_of(module: CFOL, x: torch.Tensor) -> np.ndarray:
    return module.net(x).detach().numpy()


@pytest.mark.parametrize("classes", [2, 4, 200])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
def test_p_mixes_uniform_and_softmax_over_the_classes_that_have_images(classes, gamma):
    rng = np.random.default_rng(classes)
    counts = rng.integers(1, 9, classes)
    counts[classes // 2 :: 3] = 0
    module = method(classes=classes, counts=counts, gamma=gamma)
    for scale in (0.0, 1.0, 1e3):
        log_weight = scale * rng.normal(size=classes)
        module.log_weight.copy_(torch.tensor(log_weight))
        found = module.probability().numpy()
        np.testing.assert_allclose(found, bandit(log_weight, gamma, counts > 0), rtol=1e-6)
        assert found.sum() == pytest.approx(1) and (found[counts == 0] == 0).all()


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_log_weights_follow_errors_over_the_p_that_drew_the_batch(seed, ahead):
    """`ahead` batches are drawn before the first is trained on, as prefetching workers do; class 3 has no images."""
    rng = np.random.default_rng(seed)
    module = method(counts=[5, 1, 2, 0], eta=0.3, gamma=0.4)
    present, w, drawn = np.array([1, 1, 1, 0]) > 0, np.zeros(4), []
    for k in range(ahead):
        drawn.append(bandit(w, 0.4, present))
        np.testing.assert_allclose(module.draw(k).numpy(), drawn[-1], rtol=1e-6)
    for k in range(8):
        x, y, index = batch(rng, [0, 1, 2])
        wrong = logits_of(module, x).argmax(1) != y.numpy()
        module.training_step((x, y, index), k)
        for i in range(12):
            w[y[i]] += 0.3 * wrong[i] / drawn[k][y[i]]
        np.testing.assert_allclose(module.log_weight.numpy(), w, rtol=1e-6)
        drawn.append(bandit(w, 0.4, present))
        module.draw(k + ahead)
    assert wrong.any() and w[3] == 0 and np.abs(drawn[-1] - drawn[0]).max() > 0.01
    assert len(module.drawn) == ahead  # no more than is under way
    module.on_train_epoch_end()
    assert not module.drawn  # nothing of this epoch is taken for the next one's


def test_with_prefetching_workers_each_batch_meets_the_p_that_drew_it():
    """A DataLoader of two workers draws several batches ahead."""
    targets = torch.tensor([0] * 20 + [1] * 10 + [2] * 30)
    images = Images(torch.randint(256, (60, 3, 2, 2), dtype=torch.uint8), targets)
    module = method(classes=3, counts=[20, 10, 30], eta=0.2)
    drawn, w = {}, np.zeros(3)

    def draw(k):
        drawn[k] = module.draw(k).numpy().copy()
        return module.draw(k)

    sampler = DrawnBatches(targets, draw, 6, seed=0, rank=0, world=1)
    seen = most = 0
    for k, (x, y, index) in enumerate(DataLoader(images, batch_size=None, sampler=sampler, num_workers=2)):
        most = max(most, len(drawn) - k)
        x = x.double() / 255
        wrong = logits_of(module, x).argmax(1) != y.numpy()
        module.training_step((x, y, index), k)
        w += 0.2 * np.bincount(y[wrong], minlength=3) / drawn[k]
        np.testing.assert_allclose(module.log_weight.numpy(), w, rtol=1e-6)
        chances = np.random.RandomState([0, 0, k]).choice(3, 6, p=drawn[k])
        assert sorted(chances) == sorted(y.tolist())
        seen += 1
    assert seen == 10 and most > 2, "nothing was drawn ahead"
    assert len({tuple(p) for p in drawn.values()}) > 2


@pytest.mark.parametrize("objective", [AT(), TRADES(6.0)])
@pytest.mark.parametrize("seed", range(3))
def test_losses_and_updates_of_both_samplings_in_numpy(seed, objective):
    """class: the plain mean, errors over p. uniform: p over the share of the class weights losses, errors over the share."""
    rng = np.random.default_rng(seed)
    counts = np.array([40, 10, 30, 0])
    share, start = counts / 80, rng.normal(size=4)
    p = bandit(start, 0.5, counts > 0)
    x, y, index = batch(rng, [0, 1, 2])
    for sampling in ("class", "uniform"):
        module = method(objective, counts=counts, sampling=sampling)
        module.log_weight.copy_(torch.tensor(start))
        logits = logits_of(module, x)
        losses = -log_softmax(logits, 1)[range(12), y]  # at eps=0 TRADES has no second term
        wrong = np.bincount(y[logits.argmax(1) != y.numpy()], minlength=4)
        if sampling == "class":
            module.draw(0)
        loss = module.training_step((x, y, index), 0).item()
        weights, divisor = (np.ones(12), p) if sampling == "class" else ((p / np.where(share > 0, share, 1))[y], share)
        assert loss == pytest.approx((weights * losses).mean(), rel=1e-6)
        moved = 0.3 * wrong / np.where(divisor > 0, divisor, 1)
        np.testing.assert_allclose(module.log_weight.numpy(), start + moved, rtol=1e-6)


def test_drawn_and_weighted_losses_have_the_same_expectation():
    """sum_k p_k (mean loss of class k): exactly over the training set in the one, on average over draws in the other."""
    rng = np.random.default_rng(0)
    counts = [200, 30, 70]
    targets = torch.arange(3).repeat_interleave(torch.tensor(counts))
    x = torch.tensor(rng.random((300, 3, 2, 2)))
    uniform = method(classes=3, counts=counts, sampling="uniform", eta=0.0)
    uniform.log_weight.copy_(torch.tensor([0.0, 2.0, 0.5]))
    losses = -log_softmax(logits_of(uniform, x), 1)[range(300), targets]
    losses = losses + np.array([0.0, 3.0, 1.0])[targets]  # classes that differ
    p = bandit(np.array([0.0, 2.0, 0.5]), 0.5, np.ones(3) > 0)
    expected = sum(p[k] * losses[targets == k].mean() for k in range(3))

    uniform.objective.total = lambda terms: torch.tensor(losses)
    assert uniform.training_step((x, targets, torch.arange(300)), 0).item() == pytest.approx(expected)
    assert losses.mean() != pytest.approx(expected, abs=0.5)

    sampler = DrawnBatches(targets, lambda k: torch.tensor(p), 300, seed=0, rank=0, world=1)
    drawn = []
    for epoch in range(200):
        sampler.set_epoch(epoch)
        drawn += [losses[images].mean() for images in sampler]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - expected) < 4 * error < 0.05


def test_setup_takes_the_shares_and_draws_the_datamodules_batches():
    targets = torch.tensor([0] * 30 + [1] * 10 + [3] * 20)  # class 2 has test images only
    images = Images(torch.zeros(60, 1, 2, 2, dtype=torch.uint8), targets)
    data = DataModule(lambda root: None, batch_size=20, seed=1)
    data.train = images
    for sampling in ("class", "uniform"):
        module = method(sampling=sampling)
        module.trainer = SimpleNamespace(datamodule=data)
        module.setup("fit")
        np.testing.assert_allclose(module.share.numpy(), [0.5, 1 / 6, 0, 1 / 3])
        assert (data.draw is not None) == (sampling == "class")
    module = method(sampling="class", gamma=1.0)
    module.trainer = SimpleNamespace(datamodule=data)
    module.setup("fit")
    module.trainer = None
    seen = torch.cat([y for _, y, _ in data.train_dataloader()])
    assert len(seen) == 60 and not (seen == 2).any() and (seen == 1).sum() > 10
    with pytest.raises(ValueError, match="DataModule"):
        module.trainer = SimpleNamespace(datamodule=None)
        module.setup("fit")


def test_a_run_leaves_the_log_weights_of_its_errors(launch):
    """eta=0 leaves them at 0; else every class's weight is above 0 or the class was never wrong."""
    for eta in (0, 0.01):
        folder, _ = launch("method=cfol", f"method.eta={eta}", folder=f"eta{eta}")
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert state["share"].tolist() == [0.25] * 4
        assert (state["log_weight"] >= 0).all() and (state["log_weight"] > 0).any() == (eta > 0)


@pytest.mark.parametrize(
    "key,value",
    [
        *(("eta", wrong) for wrong in (-1e-6, float("inf"), float("nan"), "fast")),
        *(("gamma", wrong) for wrong in (0.0, 1.1, -0.5, float("nan"), "half")),
        ("sampling", "both"),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(ValueError, match=f"method.{key}"):
        method(**{key: value})
