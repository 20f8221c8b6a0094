"""Which images make up which batch, on every process.

A batch is a batch of ALL processes: process r of w takes images r, r+w, r+2w, ... of each global batch, so that their
union is what one process would see, each image exactly once. Nothing is repeated to fill a batch up.

Every process has the same number of batches, because one that has none left would leave the others waiting in a
collective. Where an evaluation's last batch has fewer images than there are processes, it is joined to the one before.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class Batches(DistributedSampler[list[int]]):
    """Lists of the indices 0..n-1 that make up this process's share of each global batch of `batch_size`.

    With `shuffle` the order is a function of (seed, epoch) alone. `drop_last` drops an incomplete last batch, except
    where it is the only one. Raises ValueError where a process would get nothing and, with `drop_last`, for a
    `batch_size` that the `world` processes cannot share equally.
    """

    # Lightning wraps any sampler that is no DistributedSampler in one of its own, which would shard a second time.

    def __init__(self, n: int, batch_size: int, *, shuffle: bool, seed: int, rank: int, world: int, drop_last: bool) -> None:
        if drop_last and batch_size % world:
            raise ValueError(
                f"data.batch_size={batch_size} is the global batch and {world} processes cannot share it equally:"
                f" try {max(batch_size // world, 1) * world}"
            )
        if min(n, batch_size) < world:
            raise ValueError(
                f"{n} images in batches of {batch_size} are too few for {world} processes: use fewer trainer.devices"
                " or a larger data.eval_batch_size"
            )
        super().__init__(cast(Dataset[Any], range(n)), world, rank, shuffle, seed, drop_last)
        self.n = n
        self.batch_size = batch_size
        self.position = {"epoch": 0, "given": 0}
        self.resumed = {"epoch": 0, "given": 0}

    def __len__(self) -> int:
        full, rest = divmod(self.n, self.batch_size)
        return max(full, 1) if self.drop_last or rest < self.num_replicas else full + 1

    # A generator, because Lightning asks for the iterator before it sets the epoch: the order is drawn on first use.
    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.RandomState([self.seed, self.epoch]).permutation(self.n) if self.shuffle else np.arange(self.n)
        if self.drop_last:
            order = order[: len(self) * self.batch_size]
        for k in self._numbers():
            start = k * self.batch_size
            stop = start + self.batch_size if k < len(self) - 1 else len(order)
            yield order[start:stop][self.rank :: self.num_replicas].tolist()

    def _numbers(self) -> Iterator[int]:
        """The numbers of the epoch's batches that are still to be given."""
        first = self.resumed["given"] if self.resumed["epoch"] == self.epoch else 0
        self.resumed = {"epoch": 0, "given": 0}
        for k in range(first, len(self)):
            self.position = {"epoch": self.epoch, "given": k + 1}
            yield k

    def state_dict(self) -> dict[str, int]:
        """The epoch of the last batch given, and how many of its batches were given."""
        return self.position

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration skip the batches given before, should it be of the same epoch."""
        self.resumed = state


class DrawnBatches(Batches):
    """Training batches drawn at random: a class from `draw(k)`, then one of its images, with replacement.

    `targets` (N,) are the images' classes; `draw` gives the distribution (C,) for batch k of the epoch when that batch is needed,
    0 for a class without images. Which images come is a function of (seed, epoch, k) and that distribution, on every process.
    """

    def __init__(
        self, targets: Tensor, draw: Callable[[int], Tensor], batch_size: int, *, seed: int, rank: int, world: int
    ) -> None:
        super().__init__(len(targets), batch_size, shuffle=True, seed=seed, rank=rank, world=world, drop_last=True)
        self.draw = draw
        self.by_class = targets.argsort(stable=True).numpy()
        self.classes = targets.numpy()[self.by_class]

    def __iter__(self) -> Iterator[list[int]]:
        size = min(self.batch_size, self.n)
        for k in self._numbers():
            chances = self.draw(k).double().cpu().numpy()
            random = np.random.RandomState([self.seed, self.epoch, k])
            chosen = random.choice(len(chances), size, p=chances / chances.sum())
            starts, ends = (np.searchsorted(self.classes, chosen, side) for side in ("left", "right"))
            if (starts == ends).any():
                raise ValueError("a class without images was drawn: give it the probability 0")
            images = self.by_class[starts + (random.random_sample(size) * (ends - starts)).astype(np.int64)]
            yield images[self.rank :: self.num_replicas].tolist()


class Loader(DataLoader[tuple[Tensor, Tensor, Tensor]]):
    """A DataLoader whose sampler is a `Batches`, which Lightning can resume within an epoch."""

    def state_dict(self) -> dict[str, int]:
        return cast(Batches, self.sampler).state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        cast(Batches, self.sampler).load_state_dict(state)
