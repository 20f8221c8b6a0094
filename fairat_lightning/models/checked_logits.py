"""A network whose answers are checked: finite logits of the right shape, or an error."""

import torch
from torch import Tensor, nn

from fairat_lightning.settings import first_line


class Checked(nn.Module):
    """`net`, which must return finite logits (B, num_classes), any number of them for None; ValueError where it does not.

    `hint` ends the line for another shape: what the user can set.
    """

    def __init__(self, net: nn.Module, num_classes: int | None, hint: str = ""):
        super().__init__()
        self.net, self.num_classes, self.hint = net, num_classes, hint

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        check_shape(logits, len(x), self.num_classes, self.hint)
        if not logits.isfinite().all():
            raise ValueError("the network returns nan or infinite logits: check its weights and its normalisation")
        return logits


def check_shape(logits: object, count: int, num_classes: int | None, hint: str = "") -> None:
    """ValueError for anything but logits (count, num_classes)."""
    fits = isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == count
    if not fits or num_classes not in (None, logits.shape[1]):  # type: ignore[attr-defined]
        what = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        needed = "classes" if num_classes is None else num_classes
        raise ValueError(f"the network returns {what} for {count} images: it must return logits (images, {needed}){hint}")


@torch.no_grad()
def tried(net: nn.Module, images: Tensor, num_classes: int | None = None, *, hint: str = "", steady: bool = True) -> Tensor:
    """The logits of some images in [0,1] in eval mode, (B,C); the network's mode stays. ValueError for what is not a classifier
    of such images, and where `steady`, for one whose logits differ between two passes.
    """
    training = net.training
    try:
        first, second = (Checked(net.eval(), num_classes, hint)(images) for _ in range(2))
    except ValueError:
        raise
    except Exception as error:  # whatever its layers raise
        reason = first_line(error)
        raise ValueError(f"the network does not accept images of shape {tuple(images.shape[1:])}: {reason}") from error
    finally:
        net.train(training)
    if steady and not torch.allclose(first, second, rtol=1e-4, atol=1e-6):
        raise ValueError(
            "the network is random in eval mode: the same images give different logits, so that it cannot be evaluated"
        )
    return first
