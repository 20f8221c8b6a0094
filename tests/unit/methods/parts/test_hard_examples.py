import random

import numpy as np
import pytest
import torch

from fairat_lightning.methods.parts import HardExamples


def test_to_try_an_augmentation_changes_no_random_number(monkeypatch):
    """Whatever the user's function draws from: a run with it has the bits of one that was not tried."""

    def drawing(x, *, generator=None):
        return (x + torch.rand_like(x) + np.random.rand() + random.random() + torch.rand(1, generator=generator)) / 5

    block = HardExamples(10, augmentation="none", hard_fraction=0.3)
    monkeypatch.setattr(block, "augment", drawing)
    states = []
    for tried in (False, True):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        if tried:
            block.try_on(torch.rand(2, 1, 4, 4, generator=torch.Generator()))
        states.append((torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()))
    assert states[0] == states[1]


@pytest.mark.parametrize("name", ["none", "cutout", "randaugment", "trivialaugment", "autoaugment"])
def test_ours_pass(name):
    HardExamples(10, augmentation=name, hard_fraction=0.3).try_on(torch.rand(4, 3, 8, 8))
