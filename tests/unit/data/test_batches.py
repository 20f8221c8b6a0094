from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fairat_lightning.data import Images
from fairat_lightning.data.batches import Batches, DrawnBatches, Loader


def batches(n: int = 20, batch_size: int = 6, **options: Any) -> Batches:
    defaults: dict[str, Any] = {"shuffle": True, "seed": 0, "rank": 0, "world": 1, "drop_last": True}
    return Batches(n, batch_size, **{**defaults, **options})


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("n", [6, 13, 18, 20])
def test_the_ranks_share_what_one_process_would_train_on(n: int, world: int) -> None:
    one = list(batches(n))
    ranks = [list(batches(n, rank=rank, world=world)) for rank in range(world)]
    assert len(one) == len(batches(n)) == n // 6
    for k, batch in enumerate(one):
        shares = [rank[k] for rank in ranks]
        assert sorted(chain(*shares)) == sorted(batch)
        assert {len(share) for share in shares} == {6 // world}
    given = list(chain(*one))
    assert len(set(given)) == len(given) and set(given) <= set(range(n))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [4, 6, 7, 8, 12, 13, 20])
def test_evaluation_sees_every_image_once_in_as_many_batches_on_each_rank(n: int, world: int) -> None:
    samplers = [batches(n, shuffle=False, drop_last=False, rank=rank, world=world) for rank in range(world)]
    ranks = [list(sampler) for sampler in samplers]
    assert sorted(chain(*chain(*ranks))) == list(range(n))
    assert len({len(rank) for rank in ranks}) == 1
    assert all(len(rank) == len(sampler) for rank, sampler in zip(ranks, samplers, strict=True))
    assert all(batch for rank in ranks for batch in rank)
    assert all(len(batch) <= 6 // world + 2 for rank in ranks for batch in rank)


def test_evaluation_in_one_process_is_in_order() -> None:
    assert list(batches(8, 3, shuffle=False, drop_last=False)) == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    ranks = [list(batches(5, 6, rank=rank, world=2)) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [1, 1]
    assert sorted(chain(*chain(*ranks))) == list(range(5))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = batches(seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert orders == [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({str(one) for one in orders}) == 9  # (seed 0, epoch 1) is not (seed 1, epoch 0)


def test_what_the_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data.batch_size=8 .* 3 processes .* try 6"):
        batches(20, 8, world=3)
    for n, batch_size in ((2, 6), (6, 2)):
        with pytest.raises(ValueError, match=f"{n} images in batches of {batch_size} are too few for 3 processes"):
            batches(n, batch_size, world=3, shuffle=False, drop_last=False)


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch[2].tolist()))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def recorded(path: Any, *, resume: Any = None, limit: int | None = None) -> list[tuple[int, list[int]]]:
    """The batches of three epochs, with a checkpoint after every step."""
    images = Images(torch.zeros(20, 1, 2, 2, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    model = Recorder()
    trainer = Trainer(
        default_root_dir=path,
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=limit,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(path, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
    )
    trainer.fit(model, Loader(images, batch_size=None, sampler=batches(20, 4)), ckpt_path=resume)
    return model.seen


@pytest.mark.parametrize(("limit", "length"), [(None, 5), (3, 3)])
def test_lightning_sets_the_epoch_and_resumes_within_one(tmp_path: Any, limit: int | None, length: int) -> None:
    whole = recorded(tmp_path, limit=limit)
    assert [epoch for epoch, _ in whole] == [0] * length + [1] * length + [2] * length
    sampler = batches(20, 4)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert [batch for when, batch in whole if when == epoch] == list(sampler)[:length]
    for step in (1, length - 1, length + 1, 2 * length):
        assert recorded(tmp_path / "again", resume=tmp_path / f"step={step}.ckpt", limit=limit) == whole[step:], step


TARGETS = torch.tensor([1, 0, 3, 1, 1, 0, 3, 3, 1, 1, 4, 3])  # class 2 of 5 has no images
CHANCES = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.4])


def drawn(batch_size: int = 6, draw: Any = None, targets: torch.Tensor = TARGETS, **options: Any) -> DrawnBatches:
    defaults: dict[str, Any] = {"seed": 0, "rank": 0, "world": 1}
    return DrawnBatches(targets, draw or (lambda k: CHANCES), batch_size, **{**defaults, **options})


@pytest.mark.parametrize("classes", [2, 5, 200])
def test_drawn_classes_follow_the_distribution_and_images_are_uniform_in_their_class(classes: int) -> None:
    random = np.random.default_rng(classes)
    targets = torch.tensor(np.concatenate([np.arange(classes), random.integers(0, classes, 5 * classes)]))
    chances = torch.tensor(random.dirichlet(np.ones(classes)))
    targets = targets[torch.randperm(len(targets))]
    sampler = drawn(len(targets), lambda k: chances, targets)
    images = []
    while len(images) < 100_000:
        images += next(iter(sampler))
        sampler.set_epoch(sampler.epoch + 1)
    each = (chances / targets.bincount())[targets].numpy()
    for found, expected in (
        (np.bincount(targets[images], minlength=classes), chances.numpy()),
        (np.bincount(images, minlength=len(targets)), each),
    ):
        wanted = len(images) * expected
        chi_square = ((found - wanted) ** 2 / wanted)[wanted > 5].sum()
        freedom = (wanted > 5).sum()
        assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_drawn_images_are_of_the_classes_that_were_drawn() -> None:
    """A class's batch has that class alone, whatever its size, and a chance of 0 never comes."""
    for k in (0, 1, 3, 4):
        one = torch.eye(5)[k]
        assert {TARGETS[i].item() for batch in drawn(draw=lambda _, one=one: one) for i in batch} == {k}
    sampler = drawn()
    for epoch in range(50):
        sampler.set_epoch(epoch)
        assert 2 not in TARGETS[list(chain(*sampler))]
    assert len(set(chain(*drawn(draw=lambda _: torch.eye(5)[3])))) > 2


@pytest.mark.parametrize("n", [6, 12, 13, 20])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_ranks_share_what_one_process_would_draw(n: int, world: int) -> None:
    targets = torch.tensor([0, 1, 3, 4])[torch.arange(n) % 4]
    one = list(drawn(targets=targets))
    ranks = [list(drawn(targets=targets, rank=rank, world=world)) for rank in range(world)]
    assert len(one) == len(drawn(targets=targets)) == n // 6
    for k, batch in enumerate(one):
        assert len(batch) == 6
        for rank in range(world):
            assert ranks[rank][k] == batch[rank::world]


def test_fewer_images_than_a_batch_are_drawn_as_many_times() -> None:
    ranks = [list(drawn(16, rank=rank, world=2)) for rank in range(2)]
    assert [[len(batch) for batch in rank] for rank in ranks] == [[6], [6]]


def test_a_drawn_batch_is_a_function_of_seed_epoch_and_number_alone() -> None:
    def given(seed: int, epoch: int) -> list[list[int]]:
        sampler = drawn(4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders = [given(seed, epoch) for seed in range(3) for epoch in range(3)]
    np.random.seed(5)
    torch.manual_seed(5)
    assert orders == [given(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({str(batch) for order in orders for batch in order}) == 27
    # What the other batches were drawn with does not matter.
    other = list(drawn(4, lambda k: CHANCES if k == 1 else torch.ones(5) - torch.eye(5)[2]))
    assert other[1] == orders[0][1] and other[0] != orders[0][0]


def test_the_distribution_is_asked_for_when_its_batch_is_needed() -> None:
    asked: list[int] = []

    def draw(k: int) -> torch.Tensor:
        asked.append(k)
        return CHANCES

    iterator = iter(drawn(4, draw))
    assert asked == []
    for k in range(3):
        next(iterator)
        assert asked == list(range(k + 1))


@pytest.mark.parametrize("given", [0, 1, 2])
def test_drawn_batches_resume_within_an_epoch(given: int) -> None:
    def sampler(epoch: int, asked: list[int]) -> DrawnBatches:
        made = drawn(4, lambda k: (asked.append(k), CHANCES)[1])  # type: ignore[func-returns-value]
        made.set_epoch(epoch)
        return made

    whole = sampler(3, [])
    batches, state = [], {"epoch": 3, "given": 0}
    for k, batch in enumerate(whole):
        batches.append(batch)
        if k + 1 == given:
            state = dict(whole.state_dict())
    asked: list[int] = []
    again = sampler(3, asked)
    again.load_state_dict(state)
    assert list(again) == batches[given:] and asked == list(range(given, 3))
    assert list(again) == batches  # once only
    other = sampler(4, [])
    other.load_state_dict(state)
    assert len(list(other)) == 3  # another epoch skips nothing


def test_a_class_without_images_may_not_be_drawn():
    drawn = DrawnBatches(torch.tensor([0, 0, 2, 2]), lambda k: torch.tensor([0.0, 1.0, 0.0]), 2, seed=0, rank=0, world=1)
    with pytest.raises(ValueError, match="without images"):
        next(iter(drawn))
