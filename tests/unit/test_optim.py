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


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_the_first_epoch_is_at_lr(epochs):
    made = multistep(weight(), epochs=epochs, steps=1, milestones=[0.5, 0.75], gamma=0.1, **SHARED)
    assert rates(made, epochs)[0] == 0.1


@pytest.mark.parametrize("steps,warmup", [(100, 0.3), (100, 0.0), (100, 0.01), (1, 0.5), (7, 0.99)])
def test_one_cycle_rises_to_lr_and_falls_to_nothing(steps, warmup):
    made = onecycle(weight(), epochs=1, steps=steps, warmup=warmup, **SHARED)
    assert made["lr_scheduler"]["interval"] == "step"
    found = rates(made, steps + 1)
    top = found.index(max(found))
    assert 0.05 <= max(found) <= 0.1 + 1e-12 and abs(top - warmup * steps) <= 1
    assert found[: top + 1] == sorted(found[: top + 1]) and found[top:] == sorted(found[top:], reverse=True)
    assert min(found[:-1]) > 0 and found[-1] == 0


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"lr": "fast"}, {"momentum": -1}, {"weight_decay": float("inf")}])
def test_wrong_values_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        multistep(weight(), epochs=10, steps=10, milestones=[0.5], gamma=0.1, **(SHARED | wrong))
    for wrong in ({"milestones": [50]}, {"milestones": 0.5}, {"gamma": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            multistep(weight(), epochs=10, steps=10, **({"milestones": [0.5], "gamma": 0.1} | SHARED | wrong))
    with pytest.raises(ValueError, match="warmup"):
        onecycle(weight(), epochs=1, steps=10, warmup=1, **SHARED)
