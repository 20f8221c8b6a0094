import pytest
import torch

from fairat_lightning.data.images import Images
from fairat_lightning.data.synthetic import synthetic


def class_accuracy(train: Images, test: Images, eps: float) -> torch.Tensor:
    """The exact accuracy (C,) under an Linf attack of the linear classifier that picks the nearest class mean."""
    x, y = train.pixels.flatten(1).double() / 255, train.targets
    means = torch.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)])
    x, y = test.pixels.flatten(1).double() / 255, test.targets
    logits = x @ means.T - means.square().sum(1) / 2
    # The attack lowers logit y - logit j by eps times the L1 norm of their weights' difference, at most and exactly.
    margins = logits.gather(1, y[:, None]) - logits - eps * (means[y][:, None] - means).abs().sum(2)
    margins.scatter_(1, y[:, None], torch.inf)
    robust = (margins.amin(1) > 0).double()
    return torch.stack([robust[y == k].mean() for k in range(len(means))])


@pytest.mark.parametrize(("num_classes", "image_size"), [(3, 8), (4, 8), (6, 8), (4, 16)])
def test_the_last_class_is_the_hardest_under_attack_and_all_are_easy_without(num_classes: int, image_size: int) -> None:
    train, test, classes = synthetic(num_classes=num_classes, image_size=image_size)
    assert len(classes) == num_classes and test.targets.bincount().tolist() == [200] * num_classes
    assert class_accuracy(train, test, 0.0).min() > 0.97
    robust = class_accuracy(train, test, 0.1)
    assert 0.4 < robust[-1] < 0.7 < robust[-3:-1].min() - 0.01 and robust[-3:-1].max() < 0.92
    assert (robust[:-3] > 0.97).all()


def test_it_is_always_the_same_in_the_size_asked_for() -> None:
    train, test, _ = synthetic(image_size=12, train_per_class=5, test_per_class=3)
    again = synthetic(image_size=12, train_per_class=5, test_per_class=3)
    assert train.pixels.shape == (20, 1, 12, 12) and test.pixels.shape == (12, 1, 12, 12)
    assert torch.equal(train.pixels, again.train.pixels) and torch.equal(test.pixels, again.test.pixels)
    assert not torch.equal(train.pixels[:3], test.pixels[:3])


@pytest.mark.parametrize(("num_classes", "image_size"), [(1, 8), (5, 2), (17, 4)])
def test_impossible_sizes_are_refused(num_classes: int, image_size: int) -> None:
    with pytest.raises(ValueError, match=f"data.load.num_classes={num_classes} "):
        synthetic(num_classes=num_classes, image_size=image_size)


def test_the_most_classes_that_fit_differ() -> None:
    train = synthetic(num_classes=16, image_size=4, train_per_class=50, test_per_class=1).train
    means = torch.stack([train.pixels[train.targets == k].double().mean(0) for k in range(16)]).flatten(1)
    assert torch.cdist(means, means).fill_diagonal_(torch.inf).min() > 100
