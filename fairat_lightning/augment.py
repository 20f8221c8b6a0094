"""Random augmentation of a whole batch, on the device of the images, with one draw per sample.

Cutout: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
arXiv 1708.04552. AutoAugment (the CIFAR-10 policy): Cubuk, Zoph, Mane, Vasudevan and Le, "AutoAugment:
Learning Augmentation Strategies from Data", CVPR 2019, arXiv 1805.09501. RandAugment: Cubuk, Zoph, Shlens and
Le, "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space", NeurIPS 2020,
arXiv 1909.13719. TrivialAugment (the wide space): Mueller and Hutter, "TrivialAugment: Tuning-free Yet
State-of-the-Art Data Augmentation", ICCV 2021, arXiv 2103.10158.

Every function maps float images (B,C,H,W) in [0,1] to images of the same shape, dtype and device. Random
numbers come from `generator`, on the images' device, or from PyTorch's own. Nothing waits for the device.

The policies have torchvision's operations and magnitudes and give its results, grey level by grey level: the
image is rounded to 8 bits once, and every operation maps grey levels to grey levels. An operation is of one
of three families, each exactly the identity on the samples that drew another one: a turn is three steps.

    warp   x'(p) = x(A p), nearest pixel, black outside   shear, translate, rotate
    blend  x' = floor((1 + m) x - m d), d degenerate      brightness, color, contrast, sharpness
    tone   x' = table[x], one per sample and channel      posterize, solarize, invert, autocontrast, equalize

As in torchvision, TrivialAugment translates by up to 32 pixels whatever the image's size, color leaves grey
images alone, and equalize leaves images of up to 255 pixels alone. We differ from the papers' code in one
place: a cutout of odd side is odd (3 of 8 pixels), where the authors' loses a row and a column.
"""

from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from fairat_lightning.settings import one_of

Augmentation = Callable[..., Tensor]

# In torchvision's order: RandAugment and TrivialAugment draw from all but the last one.
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")
OPS = ("Identity", *GEOMETRIC, *BLENDS, "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")
BINS, POLICY_BINS = 31, 10  # magnitudes in the spaces of RandAugment and TrivialAugment, and of AutoAugment


def crop_flip(x: Tensor, *, padding: int, flip: bool, generator: torch.Generator | None = None) -> Tensor:
    """Crop at a uniform offset after padding by `padding` black pixels; `flip` mirrors with probability 1/2.

    Padding 0 without flip returns `x` and draws nothing. Raises ValueError for a negative padding.
    """
    if padding < 0:
        raise ValueError(f"padding={padding} is negative")
    if padding == 0 and not flip:
        return x
    b, c, h, w = x.shape
    rows, columns = (torch.arange(length, device=x.device).expand(b, length) for length in (h, w))
    if flip:
        mirrored = torch.randint(2, (b, 1), generator=generator, device=x.device) == 1
        columns = torch.where(mirrored, w - 1 - columns, columns)
    if padding:
        top, left = torch.randint(2 * padding + 1, (2, b, 1), generator=generator, device=x.device)
        rows, columns = rows + top, columns + left
        x = F.pad(x, [padding] * 4)
    sample = torch.arange(b, device=x.device).view(b, 1, 1, 1)
    channel = torch.arange(c, device=x.device).view(c, 1, 1)
    return x[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def cutout(x: Tensor, *, size: float = 0.375, generator: torch.Generator | None = None) -> Tensor:
    """Blacken a square of side round(`size` * H) around a uniformly drawn pixel, clipped at the border.

    Raises ValueError for a size outside [0, 1].
    """
    if not 0 <= size <= 1:
        raise ValueError(f"size={size} must be a part of the image's height, from 0 to 1")
    b, _, h, w = x.shape
    side = round(size * h)
    inside = []
    for length in (h, w):
        start = torch.randint(length, (b, 1), generator=generator, device=x.device) - side // 2
        pixel = torch.arange(length, device=x.device)
        inside.append((pixel >= start) & (pixel < start + side))
    rows, columns = inside
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def randaugment(x: Tensor, *, num_ops: int = 2, magnitude: int = 8, generator: torch.Generator | None = None) -> Tensor:
    """Apply `num_ops` uniformly drawn operations, each at bin `magnitude` of 0..30 and with a random sign.

    Raises ValueError for a negative num_ops, a magnitude out of range, or images without 1 or 3 channels.
    """
    if num_ops < 0:
        raise ValueError(f"num_ops={num_ops} is negative")
    if not 0 <= magnitude < BINS:
        raise ValueError(f"magnitude={magnitude} must be one of 0..{BINS - 1}")
    levels = _grey_levels(x)
    space = _space(False, BINS, x.shape[2], x.shape[3], x.device)
    for _ in range(num_ops):
        op = torch.randint(len(OPS) - 1, (len(x),), generator=generator, device=x.device)
        levels = _apply(levels, op, _random_sign(op, space[op, magnitude], generator))
    return levels.to(x.dtype) / 255


def trivialaugment(x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Apply one operation of the wide space, drawn uniformly, as are its magnitude and sign.

    Raises ValueError for images without 1 or 3 channels.
    """
    levels = _grey_levels(x)
    space = _space(True, BINS, x.shape[2], x.shape[3], x.device)
    op = torch.randint(len(OPS) - 1, (len(x),), generator=generator, device=x.device)
    strength = torch.randint(BINS, (len(x),), generator=generator, device=x.device)
    return _apply(levels, op, _random_sign(op, space[op, strength], generator)).to(x.dtype) / 255


def autoaugment(x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Apply one of the 25 CIFAR-10 sub-policies: two operations in turn, each with its own probability.

    Raises ValueError for images without 1 or 3 channels.
    """
    levels = _grey_levels(x)
    space = _space(False, POLICY_BINS, x.shape[2], x.shape[3], x.device)
    ops, strengths, probabilities = _cifar10_policy(x.device)
    drawn = torch.randint(len(ops), (len(x),), generator=generator, device=x.device)
    for turn in range(2):
        chance = torch.rand(len(x), generator=generator, device=x.device)
        op = torch.where(chance < probabilities[drawn, turn], ops[drawn, turn], OPS.index("Identity"))
        levels = _apply(levels, op, _random_sign(op, space[op, strengths[drawn, turn]], generator))
    return levels.to(x.dtype) / 255


def unchanged(x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """`x` itself; nothing is drawn."""
    return x


AUGMENTATIONS: dict[str, Augmentation] = {
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
    "autoaugment": autoaugment,
    "cutout": cutout,
    "none": unchanged,
}


def augmentation_of(name: str) -> Augmentation:
    """The function (x, *, generator=None) -> x called `name`, or that of another's module; ValueError for an unknown name."""
    if "." in str(name):
        try:
            own: Augmentation = resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"augmentation={name} cannot be imported: {error}") from error
        return own
    one_of("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


@cache  # constants, made from nothing but the arguments; a copy from the host at every step would be a synchronisation
def _space(wide: bool, bins: int, height: int, width: int, device: torch.device) -> Tensor:
    """Magnitudes (len(OPS), bins): slopes, pixels, degrees, blend weights, bits kept, thresholds."""
    slope, weight, degrees, bits = (0.99, 0.99, 135.0, 6) if wide else (0.3, 0.9, 30.0, 4)
    right, down = (32.0, 32.0) if wide else (150 / 331 * width, 150 / 331 * height)
    largest = [0.0, slope, slope, right, down, degrees, *[weight] * len(BLENDS)]
    space = torch.zeros(len(OPS), bins)
    space[: len(largest)] = torch.stack([torch.linspace(0, end, bins) for end in largest])
    space[OPS.index("Posterize")] = 8 - (torch.arange(bins) / ((bins - 1) / bits)).round()
    space[OPS.index("Solarize")] = torch.linspace(255, 0, bins)
    return space.to(device)


@cache  # constants too
def _cifar10_policy(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Operation, magnitude bin and probability of the sub-policies' turns, each (25,2)."""
    policy = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    ops = torch.tensor([[OPS.index(name) for name, _, _ in pair] for pair in policy])
    strengths = torch.tensor([[strength or 0 for _, _, strength in pair] for pair in policy])
    probabilities = torch.tensor([[probability for _, probability, _ in pair] for pair in policy])
    return ops.to(device), strengths.to(device), probabilities.to(device)


def _grey_levels(x: Tensor) -> Tensor:
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"images of shape {tuple(x.shape)}: expected (B,C,H,W) with 1 or 3 channels")
    return (x.float() * 255).round()


def _random_sign(op: Tensor, magnitude: Tensor, generator: torch.Generator | None) -> Tensor:
    negative = torch.randint(2, op.shape, generator=generator, device=op.device) == 1
    signed = (op >= OPS.index(GEOMETRIC[0])) & (op <= OPS.index(BLENDS[-1]))
    return torch.where(negative & signed, -magnitude, magnitude)


def _apply(x: Tensor, op: Tensor, magnitude: Tensor) -> Tensor:
    """Grey levels 0..255 (B,C,H,W) after operation `op` (B,), an index into OPS, at `magnitude` (B,)."""
    return _tone(_blend(_warp(x, op, magnitude), op, magnitude), op, magnitude)


def _only(name: str, op: Tensor, magnitude: Tensor, neutral: float = 0.0) -> Tensor:
    return torch.where(op == OPS.index(name), magnitude, neutral)


def _warp(x: Tensor, op: Tensor, magnitude: Tensor) -> Tensor:
    h, w = x.shape[2:]
    shear_x, shear_y, right, down, angle = (_only(name, op, magnitude) for name in GEOMETRIC)
    # As a sine, the cosine of 90 degrees is 0 in float32 too.
    cos, sin = (90 - angle.abs()).deg2rad().sin(), angle.deg2rad().sin()
    # Coordinates run from the image's centre, and shears are about its corner.
    to_x = torch.stack((cos, shear_x - sin, shear_x * (h / 2) - right.trunc())) / (w / 2)
    to_y = torch.stack((shear_y + sin, cos, shear_y * (w / 2) - down.trunc())) / (h / 2)
    column = torch.arange(w, device=x.device) - (w - 1) / 2
    row = (torch.arange(h, device=x.device) - (h - 1) / 2)[:, None]
    # Written out, because autocast and TF32 would round a matrix product by whole pixels.
    grid = [column * a + row * b + c for a, b, c in (to_x[..., None, None], to_y[..., None, None])]
    return F.grid_sample(x, torch.stack(grid, dim=-1), mode="nearest", align_corners=False)


def _blend(x: Tensor, op: Tensor, magnitude: Tensor) -> Tensor:
    op, magnitude = op.view(-1, 1, 1, 1), magnitude.view(-1, 1, 1, 1)
    weight = _only("Brightness", op, magnitude) + _only("Contrast", op, magnitude)
    grey = degenerate = x
    if x.shape[1] == 3:
        red, green, blue = x.split(1, dim=1)
        grey = (0.2989 * red + 0.587 * green + 0.114 * blue).trunc()
        weight = weight + _only("Color", op, magnitude)
    if min(x.shape[2:]) > 2:
        # A mean of nine plus four more centres over 13, not a convolution, for the reason given in _warp.
        inner = 9 * F.avg_pool2d(x, 3, stride=1) + 4 * x[..., 1:-1, 1:-1]
        degenerate = x.clone()
        degenerate[..., 1:-1, 1:-1] = (inner / 13).round()
        weight = weight + _only("Sharpness", op, magnitude)
    degenerate = torch.where(op == OPS.index("Color"), grey, degenerate)
    degenerate = torch.where(op == OPS.index("Contrast"), grey.mean((1, 2, 3), keepdim=True), degenerate)
    degenerate = torch.where(op == OPS.index("Brightness"), 0.0, degenerate)
    return ((1 + weight) * x - weight * degenerate).clamp(0, 255).trunc()


def _tone(x: Tensor, op: Tensor, magnitude: Tensor) -> Tensor:
    op, magnitude, pixels = op.view(-1, 1, 1), magnitude.view(-1, 1, 1), x.flatten(2)
    index, level = pixels.long(), torch.arange(256, device=x.device)
    dropped = 8 - _only("Posterize", op, magnitude, 8).long()
    threshold = torch.where(op == OPS.index("Invert"), 0, _only("Solarize", op, magnitude, 256))
    table = (level >> dropped) << dropped
    table = torch.where(level >= threshold, 255 - table, table)
    low, high = pixels.amin(2, keepdim=True), pixels.amax(2, keepdim=True)
    stretched = ((level - low) * (255 / (high - low).clamp(min=1))).clamp(0, 255).long()
    table = torch.where((op == OPS.index("AutoContrast")) & (high > low), stretched, table)
    # Counted in integers: exact, and deterministic on CUDA.
    count = index.new_zeros(*x.shape[:2], 256).scatter_add_(2, index, torch.ones_like(index))
    step = (index.shape[2] - count.gather(2, high.long())) // 255
    flat = (count.cumsum(2) - count + step // 2) // step.clamp(min=1)
    table = torch.where((op == OPS.index("Equalize")) & (step > 0), flat.clamp(0, 255), table)
    return table.expand_as(count).gather(2, index).view_as(x).float()
