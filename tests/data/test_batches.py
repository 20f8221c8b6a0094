from itertools import chain
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fairat_lightning.data import Images
from fairat_lightning.data.batches import Batches, Loader


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
