import pytest
import torch
import torch.nn.functional as F
from helpers import network_weights, quick_for
from omegaconf import OmegaConf

from fairat_lightning.attacks import PGD
from fairat_lightning.data import as_float
from fairat_lightning.methods import FairAT
from fairat_lightning.objectives import AT
from fairat_lightning.training import run as runs

NOTHING = ("subset=none", "hard_fraction=0.0", "hard_fraction=null method.hard_threshold=1e9")


@pytest.mark.parametrize(
    "words, objective",
    quick_for([(words, objective) for words in NOTHING for objective in ("at", "trades")], *((words, "at") for words in NOTHING)),
)
def test_with_nothing_hard_it_is_plain_adversarial_training_bit_for_bit(trained, words, objective):
    fairat = f"method.{words}".split()
    plain, metrics = trained("method=pgd_at", f"objective={objective}")
    none, same = trained("method=fairat", f"objective={objective}", "method.augmentation=cutout", *fairat)
    assert metrics == same
    a, b = network_weights(plain), network_weights(none)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_augmenting_changes_the_run_and_only_after_the_warm_up(trained):
    words = ("method=fairat", "method.augmentation=cutout", "trainer.max_epochs=3")
    first = network_weights(trained("method=pgd_at", "trainer.max_epochs=3")[0])
    for subset in ("hard", "random", "all"):
        other = network_weights(trained(*words, f"method.subset={subset}")[0])
        assert any(not torch.equal(first[name], other[name]) for name in first), subset
    late = network_weights(trained(*words, "method.warmup_epochs=3")[0])
    assert all(torch.equal(first[name], late[name]) for name in first)


@pytest.fixture
def job(compose, tmp_path):
    """A FairAT run whose every epoch records what the method knew and what it trained on."""
    from helpers import SMALL

    from fairat_lightning.config.compose import resolved

    def job(*overrides):
        words = (
            *SMALL,
            "data.val_per_class=20",
            "method=fairat",
            "method.augmentation=cutout",
            "attack.steps=1",
            "attack.eps=0.0",
            *overrides,
        )
        return runs.prepare(OmegaConf.create(resolved(compose(*words))), tmp_path / "run")

    return job


def test_scores_the_clean_training_set_with_the_weights_at_the_epochs_end(job):
    made = job("trainer.max_epochs=1", "data.padding=2", "data.flip=true")
    module, images = made.method, made.datamodule
    seen = {}
    score = module.hard.score

    def look(method):
        losses = score(method)
        module.net.eval()
        x, y = as_float(images.train.pixels), images.train.targets
        with torch.no_grad():
            seen["expected"] = F.cross_entropy(module.net(x), y, reduction="none")
        module.net.train()
        seen["losses"] = losses
        return losses

    module.hard.score = look
    runs.execute(made)
    torch.testing.assert_close(seen["losses"], seen["expected"])
    hard = seen["losses"].argsort(descending=True)[: round(0.3 * 64)]
    checkpoint = torch.load(made.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert checkpoint["hard.augmented"].sum() == round(0.3 * 64) and checkpoint["hard.augmented"][hard].all()
    assert torch.equal(checkpoint["hard.sample_loss"], seen["losses"])


def test_trains_on_augmented_hard_examples_and_the_untouched_rest_each_drawn_afresh(job):
    made = job("trainer.max_epochs=3", "data.padding=0", "data.flip=false")
    module, clean = made.method, as_float(made.datamodule.train.pixels)
    epochs = []
    craft = module.craft

    def look(x, y):
        images, marks = epochs[-1]
        images[current["index"]] = x.clone()
        return craft(x, y)

    current = {}
    step, start = module.training_step, module.on_train_epoch_start

    def training_step(batch, batch_idx):
        current["index"] = batch[2]
        return step(batch, batch_idx)

    def on_train_epoch_start():
        start()
        epochs.append((clean.clone(), module.hard.augmented.clone()))

    module.craft, module.training_step, module.on_train_epoch_start = look, training_step, on_train_epoch_start
    runs.execute(made)
    assert epochs[0][1].sum() == 0
    for images, marks in epochs:
        changed = (images != clean).flatten(1).any(1)
        assert torch.equal(changed, marks)
    both = epochs[1][1] & epochs[2][1]
    assert both.any() and (epochs[1][0] != epochs[2][0])[both].any()


def bare(**kwargs):
    values = {"augmentation": "none", "num_samples": 100, "hard_fraction": 0.3} | kwargs
    return FairAT(torch.nn.Linear(2, 2), 2, attack=PGD(0.1, 1), objective=AT(), optim=None, **values)


def test_who_is_hard():
    losses = torch.rand(100)
    for fraction in (0.0, 0.1, 0.3, 1.0):
        module = bare(hard_fraction=fraction)
        module.hard.sample_loss.copy_(losses)
        chosen = module.hard.choose(None)
        assert chosen.sum() == round(100 * fraction)
        if 0 < fraction < 1:
            assert losses[chosen].amin() >= losses[~chosen].amax()
    module = bare(hard_fraction=None, hard_threshold=0.7)
    module.hard.sample_loss.copy_(losses)
    assert torch.equal(module.hard.choose(None), losses > 0.7)
    module = bare(subset="all")
    assert module.hard.choose(None).all()
    tied = bare()
    tied.hard.sample_loss.fill_(1.0)
    assert tied.hard.choose(None)[:30].all() and tied.hard.choose(None).sum() == 30


@pytest.mark.parametrize(
    "wrong,word",
    [
        ({"hard_fraction": 1.5}, "hard_fraction=1.5"),
        ({"hard_fraction": None}, "hard_threshold=None"),
        ({"hard_threshold": 1.0}, "hard_threshold=1.0"),
        ({"hard_fraction": None, "hard_threshold": "high"}, "hard_threshold=high"),
        ({"subset": "some"}, "subset=some"),
        ({"warmup_epochs": 0}, "warmup_epochs=0"),
        ({"augmentation": "blur"}, "blur"),
    ],
)
def test_wrong_values_are_named(wrong, word):
    with pytest.raises(ValueError, match=word):
        bare(**wrong)
