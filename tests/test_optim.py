import pytest
import torch

from fairat_lightning.optim import multistep, onecycle

SHARED = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}


def rates(made, count):
    found = []
    for _ in range(count):
        found.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    return found


def weight():
    return [torch.nn.Parameter(torch.zeros(1))]


def test_milestones_are_shares_of_the_epochs():
    made = multistep(weight(), epochs=10, steps=1000, milestones=[0.5, 0.75], gamma=0.1, **SHARED)
    assert made["lr_scheduler"]["interval"] == "epoch"
    assert rates(made, 10) == pytest.approx([0.1] * 5 + [0.01] * 3 + [0.001] * 2)
    group = made["optimizer"].param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)


def test_one_cycle_rises_to_lr_and_falls_to_nothing():
    made = onecycle(weight(), epochs=1, steps=100, warmup=0.3, **SHARED)
    assert made["lr_scheduler"]["interval"] == "step"
    found = rates(made, 100)
    top = found.index(max(found))
    assert max(found) == pytest.approx(0.1) and top in (29, 30)
    assert found[: top + 1] == sorted(found[: top + 1]) and found[top:] == sorted(found[top:], reverse=True)
    assert found[-1] < 1e-4


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"lr": "fast"}, {"momentum": -1}, {"weight_decay": float("inf")}])
def test_wrong_values_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        multistep(weight(), epochs=10, steps=10, milestones=[0.5], gamma=0.1, **(SHARED | wrong))
    with pytest.raises(ValueError, match="milestones"):
        multistep(weight(), epochs=10, steps=10, milestones=[50], gamma=0.1, **SHARED)
