"""A map-style data set of somebody else's as a training set, in memory and in a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from fairat_lightning.data import DataModule
from fairat_lightning.data.images import Mapped, Splits

BYTES = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 2


class Items:
    """A data set that makes its items when they are asked for."""

    def __init__(self, make: Any, size: int = 20) -> None:
        self.make, self.size = make, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, k: int) -> Any:
        return self.make(k)


def prepared(train: Any, cache: Path, in_memory: bool = False) -> DataModule:
    test = TensorDataset(BYTES[:6], LABELS[:6])
    data = DataModule(lambda root: Splits(train, test, ["a", "b"]), batch_size=4, in_memory=in_memory, cache=cache)
    data.prepare()
    return data


KINDS = {
    "tensors of bytes": lambda k: (BYTES[k], int(LABELS[k])),
    "floats": lambda k: (BYTES[k] / 255, LABELS[k]),
    "pictures": lambda k: {"image": Image.fromarray(BYTES[k].permute(1, 2, 0).numpy()), "label": int(LABELS[k])},
    "arrays": lambda k: (BYTES[k].permute(1, 2, 0).numpy(), np.int32(LABELS[k])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_of_somebody_elses_trains_from_memory_and_from_a_file(tmp_path, kind):
    memory, file = (prepared(Items(KINDS[kind]), tmp_path, in_memory) for in_memory in (True, False))
    assert isinstance(memory.train.pixels, torch.Tensor) and isinstance(file.train.pixels, Mapped)
    for data in (memory, file):
        assert torch.equal(torch.cat([data.train.pixels[:], data.val.pixels[:]]).sum(0), BYTES.sum(0))
        assert torch.equal(data.test.pixels[:], BYTES[:6]) and torch.equal(data.test.targets, LABELS[:6])
    for one, other in zip(memory.train_dataloader(), file.train_dataloader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_its_file_is_made_once_and_anew_when_an_image_has_changed(tmp_path, capsys):
    images = BYTES.clone()
    for change, made in ((0, 2), (0, 0), (1, 1)):
        images[7] += change
        data = prepared(TensorDataset(images, LABELS), tmp_path)
        assert capsys.readouterr().out.count("Decoding") == made
        everything = torch.cat([data.train.pixels[:], data.val.pixels[:]])
        assert any(torch.equal(image, images[7]) for image in everything)


def test_two_data_sets_of_one_kind_and_size_keep_their_files(tmp_path, capsys):
    for fold, made in ((0, 2), (1, 1), (0, 0), (1, 0)):
        prepared(TensorDataset(BYTES.roll(fold, 0), LABELS), tmp_path)
        said = capsys.readouterr().out
        assert said.count("Decoding") == made and "removed" not in said


WRONG = {
    "random": (lambda k: (torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8), 0), "other images when it is read again"),
    "resized floats": (lambda k: (BYTES[k] / 250, 0), "images are from 0 to"),
    "unequal": (lambda k: (BYTES[k][:, : 3 + k % 2], 0), "images of different shapes"),
    "between bytes": (lambda k: (torch.full((3, 4, 4), 0.3333), 0), "are not bytes divided by 255"),
    "fails": (lambda k: 1 / 0, "a training image of 0 to 19 cannot be read: division by zero"),
    "label": (lambda k: (BYTES[k], k), "label 19, but the classes are 0 to 1"),
    "unlabelled": (lambda k: BYTES[k], "give (images, labels) or a dict"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_trained_on_is_one_line(tmp_path, case):
    make, said = WRONG[case]
    with pytest.raises(ValueError) as caught:
        prepared(Items(make), tmp_path, in_memory=True)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_set_without_images_or_a_length_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="the data set has no training images; add some"):
        prepared(Items(KINDS["floats"], 0), tmp_path)
    with pytest.raises(ValueError, match="the training set is of type generator: give Images or a map-style"):
        prepared((k for k in range(3)), tmp_path)
