"""The DataModule: any set, split, sharded and augmented in one way.

The validation split is the set's own, or a stratified part of the training images and a function of the set alone: neither the
seed nor `train_size` moves it, so that models chosen on it are comparable, and nothing is ever chosen on test images.

Images stay uint8 until they are on the device; cropping and flipping happen there, which is why this leaf imports
`fairat_lightning.augment`.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from fairat_lightning.augment import crop_flip
from fairat_lightning.data.batches import Batches, DrawnBatches, Loader
from fairat_lightning.data.cache import decoded
from fairat_lightning.data.foreign import Rows
from fairat_lightning.data.images import Images, Parts, Splits, Undecoded, as_float, parts_of
from fairat_lightning.data.stratified import evenly, stratified
from fairat_lightning.settings import class_names, reachable, switch

# Good advice for images on disk, wrong here: one gather in memory is faster than any worker's queue.
warnings.filterwarnings("ignore", message=".*does not have many workers")

RESIDENT = 0.1  # the largest share of a GPU's memory that a split may take


class DataModule(LightningDataModule):
    """Train, validation and test images of the set that `load` reads from `root`.

    `load` maps a folder, or None for the cache, to `Splits` or `Parts`; it is given `image_size` too where that is set.
    `batch_size` and `eval_batch_size` count the images of all processes together. `val_per_class` None takes a tenth of each
    class, at least 1, or all validation images of a set that has its own. `train_size` and `test_size` keep that many images,
    as equally of each class as the set allows, and so does `monitor_size` of the validation images that every epoch is evaluated
    on (`val_dataloader`); None, or a number above theirs, keeps all. `padding` and `flip` augment the training batches, `seed`
    orders them. A method that draws the classes of the training batches sets `draw`, see `DrawnBatches`. `in_memory` and `cache`:
    see `fairat_lightning.data.cache`. Raises ValueError for impossible values, here or in `prepare`.
    """

    classes: list[str]
    num_classes: int
    channels: int
    image_size: int
    train: Images
    val: Images
    monitor: Images
    test: Images
    num_train: int
    processes: int = 1  # of this machine that read the set, each for itself: set before `prepare`

    def __init__(
        self,
        load: Callable[..., Splits | Parts],
        *,
        root: str | Path | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        val_per_class: int | None = None,
        monitor_size: int | None = None,
        train_size: int | None = None,
        test_size: int | None = None,
        image_size: int | None = None,
        padding: int = 0,
        flip: bool = False,
        seed: int = 0,
        in_memory: bool | None = None,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__()
        if not callable(load):
            raise ValueError(f"data.load={load} must name a function that reads a data set, by data.load._target_")
        _check("batch_size", batch_size)
        _check("eval_batch_size", eval_batch_size)
        _check("padding", padding, least=0)
        _check("seed", seed, least=0, most=2**32 - 1)
        sizes = {"val_per_class": val_per_class, "monitor_size": monitor_size, "train_size": train_size, "test_size": test_size}
        for key, value in {**sizes, "image_size": image_size}.items():
            if value is not None:
                _check(key, value)
        if not isinstance(flip, bool):
            raise ValueError(f"data.flip={flip!r} must be true or false")
        if in_memory is not None:
            switch("data.in_memory", in_memory)
        if not isinstance(cache, str | Path | None):
            raise ValueError(f"data.cache={cache} must be a folder")
        self.load = load if image_size is None else partial(load, image_size=image_size)
        self.root = None if root is None else reachable(root)
        self.in_memory, self.cache = in_memory, None if cache is None else reachable(cache)
        self.batch_size, self.eval_batch_size, self.val_per_class = batch_size, eval_batch_size, val_per_class
        self.monitor_size, self.train_size, self.test_size = monitor_size, train_size, test_size
        self.padding, self.flip, self.seed = padding, flip, seed
        self.draw: Callable[[int], Tensor] | None = None
        self.resident: dict[str, Images] = {}
        self.prepared = False

    def prepare(self) -> None:
        """Load and split the set, once; needs no Trainer and sets the attributes that the class declares."""
        if self.prepared:
            return
        try:
            loaded = parts_of(self.load(self.root))
            images = self._decoded(loaded)
        except TypeError as error:
            raise ValueError(f"data.load: {error}; see the keys of each option in conf/data/") from error
        except OSError as error:
            raise ValueError(f"data.root={self.root} cannot be read: {error}") from error
        except MemoryError as error:
            raise ValueError(
                "data: the images do not fit into the memory: set data.in_memory=false or a smaller data.image_size"
            ) from error
        train, test, val = images["training"], images["test"], images.get("validation")
        self.classes = class_names(loaded.classes)
        self.num_classes = len(self.classes)
        for name, part in images.items():
            if not len(part):
                raise ValueError(f"data: the data set has no {name} images; add some")
            first, last = int(part.targets.min()), int(part.targets.max())
            if first < 0 or last >= self.num_classes:
                wrong = first if first < 0 else last
                raise ValueError(f"data: a {name} image has the label {wrong}, but the classes are 0 to {self.num_classes - 1}")
            if part.pixels.shape[1:] != train.pixels.shape[1:]:
                sizes = " and ".join(str(tuple(found.pixels.shape[1:])) for found in (train, part))
                raise ValueError(f"data: training and {name} images must have one shape, not {sizes}")
        self.channels, self.image_size = train.pixels.shape[1:3]
        if self.padding > self.image_size:
            raise ValueError(f"data.padding={self.padding} must be at most the side of the images, {self.image_size}")
        if val is None:
            self.val, train = train.split(stratified(train.targets, self._val_counts(train)))
        else:
            self.val = val if self.val_per_class is None else self._of_each(val, self.val_per_class)
        size = max(self.monitor_size or len(self.val), self.num_classes)
        self.monitor = self._reduced(self.val, "monitor_size", size) if size < len(self.val) else self.val
        self.train = self._reduced(train, "train_size", self.train_size)
        self.test = self._reduced(test, "test_size", self.test_size)
        self.num_train = len(self.train)
        self.prepared = True
        for note in loaded.notes:
            rank_zero_only(print)(note, flush=True)

    def _decoded(self, loaded: Parts) -> dict[str, Images]:
        """The parts that there are, "training", "test" and "validation", in memory or mapped."""
        given = {"training": loaded.train, "test": loaded.test, "validation": loaded.val}
        parts = {name: p if isinstance(p, Images | Undecoded) else Rows(p, name) for name, p in given.items() if p is not None}
        return decoded(parts, self.in_memory, self.cache, self.processes)

    def whole_test(self) -> tuple[Tensor, Tensor, list[str]]:
        """All test images, uint8 (N,C,H,W), in memory, their labels (N,), and the names of the classes."""
        self.prepare()
        return self.test.pixels[:], self.test.targets, list(self.classes)

    def setup(self, stage: str | None = None) -> None:
        self.prepare()

    def check_shares(self, world: int) -> None:
        """ValueError where `world` processes cannot share the batches: checked here, before the training begins."""
        for split, size in (("train", self.batch_size), *((split, self.eval_batch_size) for split in ("val", "monitor", "test"))):
            images = getattr(self, split)
            Batches(len(images), size, shuffle=False, seed=0, rank=0, world=world, drop_last=split == "train")

    def train_dataloader(self) -> Loader:
        """Shuffled batches of the training images; an incomplete last one is dropped."""
        return self._loader("train", self.batch_size, training=True)

    def scoring_dataloader(self) -> Loader:
        """The training images uint8 in order, never augmented, each on one process; for `as_float` on the device."""
        return self._loader("train", self.eval_batch_size)

    def val_dataloader(self) -> Loader:
        """The validation images that every epoch is evaluated on, the same ones each time."""
        return self._loader("monitor", self.eval_batch_size)

    def whole_val_dataloader(self) -> Loader:
        """All validation images, for methods that learn from them."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> Loader:
        return self._loader("test", self.eval_batch_size)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The batch with its images float in [0,1], cropped and flipped at random if it is for training."""
        x, *rest = batch
        x = as_float(x)
        if self.trainer is not None and self.trainer.training:
            x = crop_flip(x, padding=self.padding, flip=self.flip)
        return x, *rest

    def _resident(self, split: str) -> Images:
        """A split's images, on the GPU that trains where they take little of it: a step then copies nothing but indices."""
        images: Images = getattr(self, split)
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if device.type != "cuda" or images.pixels.nbytes > RESIDENT * torch.cuda.get_device_properties(device).total_memory:
            return images
        if split not in self.resident:
            self.resident[split] = images.to(device)
        return self.resident[split]

    def _loader(self, split: str, batch_size: int, *, training: bool = False) -> Loader:
        if getattr(self.trainer, "overfit_batches", 0):
            raise ValueError("trainer.overfit_batches is not supported: set data.train_size=N to train on N images")
        images = self._resident(split)
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        if training and self.draw is not None:
            batches: Batches = DrawnBatches(
                getattr(self, split).targets, self.draw, batch_size, seed=self.seed, rank=rank, world=world
            )
        else:
            batches = Batches(
                len(images), batch_size, shuffle=training, seed=self.seed, rank=rank, world=world, drop_last=training
            )
        # Each iterator draws a number; from torch's own stream it would make a resumed run differ from a whole one.
        draws = torch.Generator().manual_seed(self.seed)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        pin = on_gpu and not images.pixels.is_cuda
        return Loader(images, batch_size=None, sampler=batches, generator=draws, pin_memory=pin)

    def _val_counts(self, train: Images) -> Tensor:
        sizes = train.targets.bincount(minlength=self.num_classes)
        tenth = (sizes // 10).clamp(min=1)
        counts = tenth if self.val_per_class is None else torch.full_like(sizes, self.val_per_class)
        if (counts >= sizes).any():
            smallest = int(sizes.argmin())
            asked = "validation" if self.val_per_class is None else f"data.val_per_class={self.val_per_class}"
            raise ValueError(
                f"{asked} leaves no training image of class {self.classes[smallest]!r}, which has {sizes[smallest]} in all:"
                f" {'add images' if self.val_per_class is None else 'choose fewer, or add images'}"
            )
        return counts

    def _of_each(self, val: Images, count: int) -> Images:
        """`count` images of each class of the set's own validation images."""
        sizes = val.targets.bincount(minlength=self.num_classes)
        if sizes.min() < count:
            few = f"class {self.classes[int(sizes.argmin())]!r} has {sizes.min()} validation images"
            raise ValueError(f"data.val_per_class={count}: {few}; choose fewer, or null for all of them")
        return val.subset(stratified(val.targets, count))

    def _reduced(self, images: Images, key: str, size: int | None) -> Images:
        if size is None:
            return images
        if not self.num_classes <= size <= len(images):
            raise ValueError(
                f"data.{key}={size} must lie between the number of classes, {self.num_classes}, and the"
                f" {len(images)} images available"
            )
        sizes = images.targets.bincount(minlength=self.num_classes)
        return images.subset(stratified(images.targets, evenly(size, sizes)))


def _check(key: str, value: Any, *, least: int = 1, most: float = float("inf")) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = f"{least} or more" if most == float("inf") else f"{least} to {most}"
        raise ValueError(f"data.{key}={value!r} must be a whole number, {limit}")
