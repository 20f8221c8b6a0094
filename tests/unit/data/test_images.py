import pytest
import torch
from torch.utils.data import DataLoader

from fairat_lightning.data import Images, Indexed, as_float


def numbered(n: int) -> Images:
    return Images(torch.arange(n * 2, dtype=torch.uint8).view(n, 1, 1, 2), torch.arange(n) % 3)


def test_a_list_of_indices_gives_a_batch_in_its_order() -> None:
    for index in ([4, 0, 4], torch.tensor([4, 0, 4])):
        x, y, position = numbered(5)[index]
        assert x.tolist() == [[[[8, 9]]], [[[0, 1]]], [[[8, 9]]]]
        assert y.tolist() == [1, 0, 1] and position.tolist() == [4, 0, 4]


def test_split_is_a_partition_in_order() -> None:
    chosen, others = numbered(6).split(torch.tensor([1, 4]))
    assert chosen.pixels[:, 0, 0, 0].tolist() == [2, 8]
    assert others.pixels[:, 0, 0, 0].tolist() == [0, 4, 6, 10]
    assert others.targets.tolist() == [0, 2, 0, 2]


@pytest.mark.parametrize(
    ("pixels", "targets"),
    [
        (torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int32)),
    ],
)
def test_other_types_and_shapes_are_refused(pixels: torch.Tensor, targets: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be"):
        Images(pixels, targets)


def test_indexed_adds_the_position_and_collates() -> None:
    pairs = [(torch.full((1, 2, 2), float(i)), i % 2) for i in range(5)]
    x, y, index = next(iter(DataLoader(Indexed(pairs), batch_size=5, sampler=[3, 1, 0, 4, 2])))
    assert index.tolist() == [3, 1, 0, 4, 2]
    assert x[:, 0, 0, 0].tolist() == [3, 1, 0, 4, 2] and y.tolist() == [1, 1, 0, 0, 0]
    assert len(Indexed(pairs)) == 5


def test_as_float_maps_bytes_to_the_unit_interval_and_leaves_floats_alone() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    assert as_float(grey).dtype == torch.float32
    assert torch.equal(as_float(grey), torch.linspace(0, 255, 256) / 255)
    assert torch.equal((as_float(grey) * 255).round().to(torch.uint8), grey)
    double = torch.rand(3, dtype=torch.float64)
    assert as_float(double) is double
    with pytest.raises(ValueError, match=r"torch\.int64"):
        as_float(torch.zeros(2, dtype=torch.int64))
