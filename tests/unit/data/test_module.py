from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from fairat_lightning.data import DataModule, Images, module, sets
from fairat_lightning.data.images import Splits

SIZES = (40, 25, 12)


def uneven(root: Path | None = None) -> Splits:
    """Unequal classes of images that are all different: its number is in an image's first two pixels."""
    targets = torch.cat([torch.full((size,), k) for k, size in enumerate(SIZES)])[torch.randperm(sum(SIZES))]
    number = torch.arange(len(targets))
    pixels = torch.stack([number // 256, number % 256, targets, targets], 1).view(-1, 1, 2, 2).to(torch.uint8)
    return Splits(Images(pixels, targets), Images(pixels[:30] + 100, targets[:30]), ["a", "b", "c"])


def prepared(load: Any = uneven, **options: Any) -> DataModule:
    torch.manual_seed(7)
    data = DataModule(load, **{"batch_size": 8, **options})
    data.prepare()
    return data


def numbers(images: Images) -> set[int]:
    return {256 * int(p[0]) + int(p[1]) for p in images.pixels.flatten(1)}


def test_prepare_splits_once_and_says_what_the_set_is() -> None:
    calls = []

    def load(root: Path | None) -> Splits:
        calls.append(root)
        return uneven()

    data = prepared(load, root="~/somewhere")
    data.setup("fit")
    assert calls == [Path.home() / "somewhere"]
    assert (data.num_classes, data.classes, data.channels, data.image_size) == (3, ["a", "b", "c"], 1, 2)
    assert data.num_train == len(data.train) == 77 - 4 - 2 - 1 and len(data.test) == 30


def test_validation_is_a_stratified_part_that_neither_seed_nor_size_moves() -> None:
    plain = prepared()
    assert plain.val.targets.bincount().tolist() == [4, 2, 1]
    assert not numbers(plain.val) & numbers(plain.train)
    assert numbers(plain.val) | numbers(plain.train) == set(range(77))
    for options in ({"seed": 5}, {"train_size": 20}, {"test_size": 9}, {"batch_size": 3, "seed": 9, "train_size": 11}):
        other = prepared(**options)
        assert torch.equal(other.val.pixels, plain.val.pixels)
        assert numbers(other.train) <= numbers(plain.train)
    assert prepared(val_per_class=6).val.targets.bincount().tolist() == [6, 6, 6]


@pytest.mark.parametrize("size, counts", [(None, [6, 6, 6]), (18, [6, 6, 6]), (600, [6, 6, 6]), (8, [3, 3, 2]), (1, [1, 1, 1])])
def test_every_epoch_is_judged_by_a_fixed_part_of_the_validation_images(size: int | None, counts: list[int]) -> None:
    data = prepared(val_per_class=6, monitor_size=size)
    assert data.monitor.targets.bincount().tolist() == counts and numbers(data.monitor) <= numbers(data.val)
    assert torch.equal(prepared(val_per_class=6, monitor_size=size, seed=3).monitor.pixels, data.monitor.pixels)
    for loader, images in ((data.val_dataloader(), data.monitor), (data.whole_val_dataloader(), data.val)):
        assert torch.equal(torch.cat([x for x, _, _ in loader]), images.pixels)


def test_sizes_are_shared_as_equally_as_the_classes_allow() -> None:
    data = prepared(train_size=50, test_size=10, val_per_class=2)
    assert data.num_train == 50 and data.train.targets.bincount().tolist() == [20, 20, 10]
    assert sorted(data.test.targets.bincount().tolist()) == [3, 3, 4]
    assert torch.equal(prepared(train_size=50, seed=3, val_per_class=2).train.pixels, data.train.pixels)


def test_loaders_give_the_right_images_in_the_right_order() -> None:
    data = prepared(eval_batch_size=25)
    epochs = [list(data.train_dataloader()), list(prepared().train_dataloader())]
    assert [len(batch[1]) for batch in epochs[0]] == [8] * (70 // 8)
    order = list(chain(*(index.tolist() for _, _, index in epochs[0])))
    assert order == list(chain(*(index.tolist() for _, _, index in epochs[1])))
    assert order != sorted(order) and len(set(order)) == 64
    for x, y, index in epochs[0]:
        assert torch.equal(x, data.train.pixels[index]) and torch.equal(y, data.train.targets[index])
    other_seed = [index.tolist() for _, _, index in prepared(seed=1).train_dataloader()]
    assert list(chain(*other_seed)) != order

    def in_order(loader: DataLoader[Any], images: Images) -> bool:
        x, y, index = (torch.cat(parts) for parts in zip(*loader, strict=True))
        return torch.equal(x, images.pixels) and torch.equal(y, images.targets) and index.tolist() == [*range(len(y))]

    assert in_order(data.scoring_dataloader(), data.train)
    assert in_order(data.val_dataloader(), data.val)
    assert in_order(data.test_dataloader(), data.test)
    assert len(data.scoring_dataloader()) == 3


def test_iterating_draws_nothing_from_the_random_stream_of_training() -> None:
    data = prepared()
    before = torch.get_rng_state()
    assert list(data.train_dataloader()) and list(data.scoring_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_trainers_processes_share_every_loader() -> None:
    data = prepared(batch_size=10, eval_batch_size=20)
    alone = [list(data.train_dataloader()), list(data.scoring_dataloader())]
    ranks = []
    for rank in range(2):
        data.trainer = type(
            "Two", (), {"global_rank": rank, "world_size": 2, "strategy": SimpleNamespace(root_device=torch.device("cpu"))}
        )()
        ranks.append([list(data.train_dataloader()), list(data.scoring_dataloader())])
    for one, first, second in zip(alone, *ranks, strict=True):
        for batch, *shares in zip(one, first, second, strict=True):
            assert sorted(batch[2].tolist()) == sorted(shares[0][2].tolist() + shares[1][2].tolist())


class Spy(LightningModule):
    """What reaches each kind of step, and the scoring loader in the midst of training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[torch.Tensor]] = {"train": [], "val": [], "test": [], "scoring": []}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen["train"].append(batch[0])
        self.seen["scoring"] += [x for x, _, _ in self.trainer.datamodule.scoring_dataloader()]  # type: ignore[attr-defined]
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["val"].append(batch[0])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["test"].append(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def quiet_trainer(**options: Any) -> Trainer:
    off = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    return Trainer(accelerator="cpu", max_epochs=1, **{**off, **options})


def test_only_training_batches_are_augmented_and_all_are_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    def marked(x: torch.Tensor, *, padding: int, flip: bool) -> torch.Tensor:
        assert x.is_floating_point() and padding == 2 and flip is True
        return x + 5

    monkeypatch.setattr(module, "crop_flip", marked)
    data, spy = prepared(padding=2, flip=True), Spy()
    trainer = quiet_trainer()
    trainer.fit(spy, datamodule=data)
    trainer.test(spy, datamodule=data, verbose=False)
    assert all(x.dtype == torch.float32 for x in spy.seen["train"] + spy.seen["val"] + spy.seen["test"])
    assert all(x.min() >= 5 and x.max() <= 6 for x in spy.seen["train"])
    for kind, images in {"val": data.val, "test": data.test}.items():
        seen = torch.cat(spy.seen[kind][-1:])
        assert torch.equal(seen, images.pixels.float() / 255)
    assert len(spy.seen["val"]) == 2  # the sanity check's too
    assert torch.equal(spy.seen["scoring"][0], data.train.pixels)


def test_padding_and_flip_move_the_pixels_of_training_batches() -> None:
    spy = Spy()
    data = prepared(sets.synthetic, padding=2, flip=False, batch_size=64)
    quiet_trainer(limit_train_batches=1).fit(spy, datamodule=data)
    (x,), (_, _, index) = spy.seen["train"], next(iter(data.train_dataloader()))
    original = data.train.pixels[index].float() / 255
    black = (x == 0).flatten(1).sum(1) - (original == 0).flatten(1).sum(1)
    assert (black > 4).sum() > 32 and not torch.equal(x, original)


def test_lightning_predicts_from_a_loader() -> None:
    class Positions(LightningModule):
        def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return batch[2]

    data = prepared(eval_batch_size=8)
    positions = quiet_trainer().predict(Positions(), data.test_dataloader())
    assert positions is not None
    assert torch.cat([*positions]).tolist() == list(range(30))


def test_overfit_batches_names_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"data\.train_size"):
        quiet_trainer(overfit_batches=2).fit(Spy(), datamodule=prepared())


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": 12.5},
        {"batch_size": True},
        {"eval_batch_size": -1},
        {"val_per_class": 0},
        {"train_size": "many"},
        {"test_size": 0},
        {"image_size": 0},
        {"padding": -1},
        {"seed": -1},
        {"seed": 2**32},
        {"flip": 1},
    ],
)
def test_a_wrong_value_is_named_at_once(wrong: dict[str, Any]) -> None:
    ((key, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"data.{key}={value!r} must be"):
        DataModule(uneven, **{"batch_size": 8, **wrong})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 71}, r"data.train_size=71 must lie between .* 3, and the 70 images available"),
        ({"train_size": 2}, r"data.train_size=2 must lie between the number of classes, 3,"),
        ({"test_size": 31}, r"data.test_size=31 must lie between .* 3, and the 30 images available"),
        ({"val_per_class": 12}, r"data.val_per_class=12 leaves no training image of class 'c', which has 12"),
    ],
)
def test_a_value_that_does_not_suit_the_set_is_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(**options)


def test_image_size_is_handed_to_the_loader() -> None:
    assert prepared(partial(sets.synthetic, num_classes=5), image_size=12).image_size == 12
