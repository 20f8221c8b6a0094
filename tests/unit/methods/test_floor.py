import pytest
import torch
from helpers import network_weights, quick_for
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.dro import kl_worst_case
from fairat_lightning.methods import FLOOR
from fairat_lightning.objectives import TRADES, margin

OFF = {
    "hard_fraction": "method.hard_fraction=0",
    "radius": "method.radius=0",
}
FAWA = ("averaging=fawa", "averaging.threshold=0.0", "averaging.start=0.0")
ALONE = {  # the one ingredient that is left on -> the method that has no other
    "nothing": ((), ("method=pgd_at",)),
    "hard_fraction": (
        ("method.hard_fraction=0.3", "method.augmentation=cutout"),
        ("method=fairat", "method.augmentation=cutout"),
    ),
    "radius": (("method.radius=0.5",), ("method=faal", "method.radius=0.5")),
    "radius with memory": (
        ("method.radius=0.5", "method.memory=0.9"),
        ("method=faal", "method.radius=0.5", "method.memory=0.9"),
    ),
    "awp": (("awp=awp",), ("method=pgd_at", "awp=awp")),
    "averaging": (FAWA, ("method=pgd_at", *FAWA)),
    "head": (("head=balanced",), ("method=pgd_at", "head=balanced")),
}


@pytest.mark.parametrize(
    "ingredient,objective",
    quick_for(
        [*((name, "at") for name in ALONE), ("radius", "trades")],
        *((name, "at") for name in ALONE if name not in ("nothing", "radius")),
    ),
)
def test_with_all_but_one_off_it_is_that_method_bit_for_bit(trained, ingredient, objective):
    on, other = ALONE[ingredient]
    given = {word.partition("=")[0].removeprefix("method.") for word in on}
    off = [word for name, word in OFF.items() if name not in given]
    common = (f"objective={objective}", "trainer.max_epochs=3")
    floor, metrics = trained("method=floor", *off, *on, *common)
    alone, same = trained(*other, *common)
    assert metrics == same
    a, b = network_weights(floor), network_weights(alone)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("ingredient", quick_for(list(OFF), "radius"))
def test_every_ingredient_changes_the_run(trained, ingredient):
    words = ("method=floor", "method.augmentation=cutout", "trainer.max_epochs=3")
    whole = torch.load(trained(*words)[0] / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    folder, _ = trained(*words, OFF[ingredient])
    other = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert any(not torch.equal(whole[name], other[name]) for name in whole if name.startswith("net."))


def test_the_loss_weights_every_example_by_the_worst_distribution():
    """(1/B) sum K' p*[y] ( supervised + beta consistency ), at the images of the plain attack."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    module = FLOOR(
        *(net, 4),
        **{"num_samples": 12, "hard_fraction": 0.0, "augmentation": "none", "radius": 0.5, "memory": 0.9},
        **{"attack": PGD(eps=0.1, steps=1), "objective": TRADES(6.0), "optim": None},
    )
    module.log = lambda *_, **__: None
    x, y = torch.rand(12, 3, 2, 2).double(), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    torch.manual_seed(0)
    x_adv = module.craft(x, y)
    torch.manual_seed(0)
    loss = module.training_step((x, y, torch.arange(12)), 0)
    terms = module.objective(net, x, x_adv, y)
    margins = margin(terms.logits.softmax(1), y)
    means = torch.tensor([margins[y == k].mean() for k in range(3)])
    p = kl_worst_case(means, 0.5)
    expected = (3 * p[y] * (terms.supervised + 6 * terms.consistency)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_wrong_settings_are_named(launch, capsys):
    for word in ("hard_fraction=2", "radius=-1", "memory=1", "augmentation=blur"):
        with pytest.raises(SystemExit) as stopped:
            launch("method=floor", f"method.{word}")
        assert stopped.value.code == 2
        assert word.partition("=")[0] in capsys.readouterr().err
