"""Batched augmentation: properties, torchvision as the oracle image by image, distribution of the draws."""

import math
from collections import Counter
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision import transforms
from torchvision.transforms import functional as TF

from fairat_lightning import augment
from fairat_lightning.augment import AUGMENTATIONS, OPS, augmentation_of, crop_flip, cutout, randaugment

SIZES = [(3, 32, 32), (1, 32, 32), (3, 8, 8), (1, 8, 8), (3, 17, 24)]
FUNCTIONS = AUGMENTATIONS | {"crop_flip": partial(crop_flip, padding=2, flip=True)}
RANDOM = [name for name in FUNCTIONS if name != "none"]
SIGNED = OPS[1:10]
POLICIES = {
    "randaugment": transforms.RandAugment(num_ops=1, magnitude=8),
    "trivialaugment": transforms.TrivialAugmentWide(),
    "autoaugment": transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def grey_levels(b, c, h, w):
    """Random 8-bit images as floats 0..255, every third of low contrast, every seventh constant."""
    x = torch.randint(256, (b, c, h, w), generator=seeded(0))
    x[::3] = x[::3] // 4 + 20
    x[1::7] = x[1::7, :, :1, :1].clone()
    return x.float()


@pytest.mark.parametrize("size", [*SIZES, (3, 2, 5), (1, 1, 1)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_range_shape_and_dtype(name, size):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.rand(32, *size, generator=seeded(0)).to(dtype)
        before = x.clone()
        out = FUNCTIONS[name](x, generator=seeded(1))
        assert out.shape == x.shape and out.dtype == dtype
        assert out.min() >= 0 and out.max() <= 1
        assert torch.equal(x, before), "the input was written to"
    assert FUNCTIONS[name](x[:0]).shape == x[:0].shape


@pytest.mark.parametrize("name", RANDOM)
def test_draws_follow_the_sample_and_the_seed_alone(name):
    f = FUNCTIONS[name]
    x = (grey_levels(1, 3, 16, 18) / 255).expand(64, -1, -1, -1)
    out = f(x, generator=seeded(1))
    assert len(out.flatten(1).unique(dim=0)) > 8
    assert torch.equal(out, f(x, generator=seeded(1)))
    assert torch.equal(out, f(x.contiguous(memory_format=torch.channels_last), generator=seeded(1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(out, f(x, generator=seeded(1))), "mixed precision moved pixels or grey levels"
    assert not torch.equal(out, f(x, generator=seeded(2)))
    torch.manual_seed(1)
    assert torch.equal(out, f(x)), "without a generator, PyTorch's own decides"


@pytest.mark.parametrize("name", RANDOM)
def test_a_sample_does_not_see_the_others(name):
    x = grey_levels(64, 3, 16, 18) / 255
    other = torch.cat((x[:32], x[32:].flip(0) / 2))
    out, changed = (FUNCTIONS[name](batch, generator=seeded(3)) for batch in (x, other))
    assert torch.equal(out[:32], changed[:32])
    assert not torch.equal(out[32:], changed[32:])


def test_nothing_asked_nothing_drawn():
    x, generator = torch.rand(4, 3, 8, 8), seeded(0)
    state = generator.get_state()
    assert crop_flip(x, padding=0, flip=False, generator=generator) is x
    assert augmentation_of("none")(x, generator=generator) is x
    assert torch.equal(generator.get_state(), state)
    levels = grey_levels(4, 3, 8, 8) / 255
    assert torch.equal(randaugment(levels, num_ops=0), levels)


def test_errors_name_the_value_and_the_way_out():
    with pytest.raises(ValueError, match=r"mixup.*randaugment, trivialaugment, autoaugment, cutout, none"):
        augmentation_of("mixup")
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match="padding=-1"):
        crop_flip(x, padding=-1, flip=False)
    with pytest.raises(ValueError, match=r"size=1\.1"):
        cutout(x, size=1.1)
    for option in ({"num_ops": -1}, {"magnitude": -1}, {"magnitude": 31}):
        with pytest.raises(ValueError, match="{}={}".format(*next(iter(option.items())))):
            randaugment(x, **option)
    for name in POLICIES:
        with pytest.raises(ValueError, match="1 or 3 channels"):
            augmentation_of(name)(x[:, :2])


def torchvision_op(name: str, image: Tensor, m: float) -> Tensor:
    """One operation on one 8-bit image (C,H,W), as Cubuk et al.'s magnitudes are read by torchvision."""
    slope, shift, straight = math.degrees(math.atan(m)), int(m), {"angle": 0.0, "scale": 1.0}
    return {
        "Identity": lambda: image,
        "ShearX": lambda: TF.affine(image, translate=[0, 0], shear=[slope, 0.0], center=[0, 0], **straight),
        "ShearY": lambda: TF.affine(image, translate=[0, 0], shear=[0.0, slope], center=[0, 0], **straight),
        "TranslateX": lambda: TF.affine(image, translate=[shift, 0], shear=[0.0, 0.0], **straight),
        "TranslateY": lambda: TF.affine(image, translate=[0, shift], shear=[0.0, 0.0], **straight),
        "Rotate": lambda: TF.rotate(image, m),
        "Brightness": lambda: TF.adjust_brightness(image, 1 + m),
        "Color": lambda: TF.adjust_saturation(image, 1 + m),
        "Contrast": lambda: TF.adjust_contrast(image, 1 + m),
        "Sharpness": lambda: TF.adjust_sharpness(image, 1 + m),
        "Posterize": lambda: TF.posterize(image, int(m)),
        "Solarize": lambda: TF.solarize(image, m),
        "AutoContrast": lambda: TF.autocontrast(image),
        "Equalize": lambda: TF.equalize(image),
        "Invert": lambda: TF.invert(image),
    }[name]()


def between_two_pixels(name: str, size: tuple[int, ...], m: float) -> Tensor:
    """Where (H,W) a shear falls within a thousandth of the middle between two pixels, which the processor's rounding decides."""
    place, slope = torch.arange(1.0, math.prod(size[1:]) + 1, dtype=torch.float64).view(1, *size[1:]), math.degrees(math.atan(m))
    shear = [slope, 0.0] if name == "ShearX" else [0.0, slope]
    moved = [TF.affine(place, 0.0, [by, by], 1.0, shear, center=[0, 0]) for by in (-1e-3, 0.0, 1e-3)]
    return ((moved[0] != moved[1]) | (moved[1] != moved[2]))[0]


@pytest.mark.parametrize("size", [*SIZES, (3, 2, 5), (3, 3, 4)])
def test_every_operation_is_torchvisions(size):
    """Every magnitude in ONE batch of distinct images: the families must not interfere."""
    spaces = [(False, 31), (True, 31), (False, 10)]
    space = torch.cat([augment._space(*s, *size[1:], torch.device("cpu")) for s in spaces], dim=1)
    signed = torch.tensor([name in SIGNED for name in OPS])[:, None]
    space = torch.cat((space, torch.where(signed, -space, space)), dim=1)
    op = torch.arange(len(OPS)).repeat_interleave(space.shape[1])
    x = grey_levels(len(op), *size)
    out = augment._apply(x, op, space.flatten())
    for i, (name, m) in enumerate(zip((OPS[o] for o in op), space.flatten().tolist(), strict=True)):
        ours, theirs = out[i], torchvision_op(name, x[i].byte(), m).float()
        if name in ("ShearX", "ShearY") and not torch.equal(ours, theirs):
            sure = ~between_two_pixels(name, size, m)
            assert sure.double().mean() > 0.7, (name, m)
            ours, theirs = ours[:, sure], theirs[:, sure]
        assert torch.equal(ours, theirs), (name, m)


@pytest.mark.parametrize("name", POLICIES)
def test_whatever_torchvision_draws_we_draw(name):
    """Magnitudes, signs and sub-policies, bit for bit: the outcomes on one image, of many draws."""
    x = grey_levels(1, 3, 12, 22)
    options = {"num_ops": 1} if name == "randaugment" else {}
    generator, ours = seeded(0), set()
    for _ in range(8):
        out = augmentation_of(name)((x / 255).expand(2000, -1, -1, -1), generator=generator, **options)
        ours |= {image.numpy().tobytes() for image in out}
    torch.manual_seed(0)
    theirs = {(POLICIES[name](x[0].byte()) / 255).numpy().tobytes() for _ in range(400)}
    assert theirs == ours if name == "randaugment" else theirs <= ours


def record(monkeypatch, name, b):
    """The operations and magnitudes of every turn, (turns,b) each, drawn without applying them."""
    turns = []
    monkeypatch.setattr(augment, "_apply", lambda x, op, magnitude: turns.append((op, magnitude)) or x)
    augmentation_of(name)(torch.zeros(b, 1, 1, 1), generator=seeded(0))
    return tuple(torch.stack(column) for column in zip(*turns, strict=True))


def assert_frequencies(counts: Counter, probabilities: dict) -> None:
    """Every count within five standard deviations of its expectation, and none where the probability is 0."""
    n = sum(counts.values())
    assert set(counts) <= {k for k, p in probabilities.items() if p > 0}
    for key, p in probabilities.items():
        assert abs(counts[key] - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1e-6, (key, counts[key] / n, p)


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment"])
def test_operations_and_signs_are_uniform(monkeypatch, name):
    op, magnitude = record(monkeypatch, name, 20000)
    assert len(op) == (2 if name == "randaugment" else 1)
    for turn in op:
        assert_frequencies(Counter(turn.tolist()), {o: 1 / 14 for o in range(14)})
    for signed in (OPS.index(n) for n in SIGNED if n[:9] != "Translate"):
        m = magnitude[op == signed]
        assert_frequencies(Counter((m[m != 0] > 0).tolist()), {True: 0.5, False: 0.5})
    assert (magnitude[op >= OPS.index("Posterize")] >= 0).all()


def test_autoaugment_draws_the_policy(monkeypatch):
    op, _ = record(monkeypatch, "autoaugment", 50000)
    expected, policies = Counter(), POLICIES["autoaugment"].policies
    for ((first, p, _), (second, q, _)), a, b in product(policies, (True, False), (True, False)):
        pair = (OPS.index(first) if a else 0, OPS.index(second) if b else 0)
        expected[pair] += (p if a else 1 - p) * (q if b else 1 - q) / len(policies)
    assert_frequencies(Counter(zip(*op.tolist(), strict=True)), expected)


@pytest.mark.parametrize(("size", "before", "after"), [(0.375, 1, 2), (0.5, 2, 2)])
def test_cutout_erases_a_clipped_square_around_any_pixel(size, before, after):
    h, w, expected = 8, 6, Counter()
    for y, x in product(range(h), range(w)):
        mask = torch.ones(h, w)
        mask[max(y - before, 0) : y + after, max(x - before, 0) : x + after] = 0
        expected[mask.numpy().tobytes()] += 1 / (h * w)
    out = cutout(torch.ones(10000, 3, h, w), size=size, generator=seeded(0))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert_frequencies(Counter(image[0].numpy().tobytes() for image in out), expected)
    zeros = (cutout(torch.ones(500, 1, 32, 32), generator=seeded(0)) == 0).sum((1, 2, 3))
    assert zeros.max() == 12 * 12 and zeros.min() >= 6 * 6


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_crop_flip_is_a_slow_loop(padding, flip):
    image = grey_levels(1, 3, 5, 4)[0]
    padded = torch.zeros(3, 5 + 2 * padding, 4 + 2 * padding)
    padded[:, padding : padding + 5, padding : padding + 4] = image
    offsets, expected = range(2 * padding + 1), Counter()
    for top, left, mirrored in product(offsets, offsets, (False, True) if flip else (False,)):
        crop = padded[:, top : top + 5, left : left + 4].flip(2 if mirrored else ())
        expected[crop.numpy().tobytes()] += 1 / (len(offsets) ** 2 * (1 + flip))
    out = crop_flip(image.expand(5000, -1, -1, -1), padding=padding, flip=flip, generator=seeded(0))
    assert_frequencies(Counter(crop.numpy().tobytes() for crop in out), expected)


class NoHostSync(TorchDispatchMode):
    """For code on the meta device: there a value does not exist, and a tensor of the CPU is a copy from the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "nonzero", "masked_select", "lift_fresh"), f"{name} waits"
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        assert name != "index" or all(t.dtype != torch.bool for t in tensors[1:]), "a boolean index waits"
        assert all(t.is_meta for t in tensors), f"{name} on a tensor of the host waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_host_synchronisation(name):
    x = torch.rand(8, 3, 8, 8, device="meta")
    FUNCTIONS[name](x)  # the first call copies the tables
    with NoHostSync():
        FUNCTIONS[name](x)


def test_the_synchronisation_test_can_fail():
    x, host = torch.rand(8, device="meta"), torch.rand(8)
    for waits in (
        host.sum().item,
        x.nonzero,
        lambda: x[x > 0],
        lambda: host.to("meta"),
    ):
        with pytest.raises(AssertionError, match="waits"), NoHostSync():
            waits()
