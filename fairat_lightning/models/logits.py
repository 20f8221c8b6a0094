"""Where the logits are in what a network returns: a tuple, a dict or an object such as Hugging Face's `ModelOutput`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fairat_lightning.models.checked_logits import check_shape

Place = int | str | Callable[[Any], Any] | None


class Pick:
    """A forward hook that hands on the logits alone: at an index, under a key or attribute, or as a function finds them.

    With `place` None they are found under "logits", else at the first index that holds (B, num_classes), or at index 0 where the
    number of classes is not known. `found` says where, None as long as nothing had to be picked.
    """

    def __init__(self, place: Place = None, num_classes: int | None = None):
        self.place, self.found, self.num_classes = place, None if place is None else str(place), num_classes

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self.place is None and isinstance(output, Tensor):
            return output
        return self.pick(output)

    def pick(self, output: Any) -> Any:
        """The logits in `output`. ValueError where they are not there."""
        if callable(self.place):
            return self.place(output)
        place = self._usual(output) if self.place is None else self.place
        self.found = repr(place)
        try:
            if isinstance(place, str) and not isinstance(output, Mapping):
                return getattr(output, place)
            return output[place]
        except (AttributeError, KeyError, IndexError, TypeError):
            raise ValueError(
                f"the network returns a {type(output).__name__} without {place!r}: set logits= to the index or key of its logits"
            ) from None

    def _usual(self, output: Any) -> int | str:
        if _has(output, "logits"):
            return "logits"
        items = list(output) if isinstance(output, tuple | list) else []
        shapes = {k: tuple(item.shape) for k, item in enumerate(items) if isinstance(item, Tensor) and item.ndim == 2}
        if self.num_classes is not None:
            return next((k for k, shape in shapes.items() if shape[1] == self.num_classes), 0)
        if len({shape[1] for shape in shapes.values()}) > 1:
            listed = ", ".join(f"{shape} at {k}" for k, shape in shapes.items())
            raise ValueError(f"the network returns several tensors, {listed}: set logits= to the index or key of its logits")
        return 0


class Width:
    """A forward hook that refuses anything but logits (B, num_classes), in one line; it looks at the shape alone."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        check_shape(output, len(inputs[0]), self.num_classes, "; set classes= to their number, or logits= to their index or key")


def picking(net: nn.Module, place: Place = None, num_classes: int | None = None) -> tuple[Pick, RemovableHandle]:
    """Let `net` return its logits alone, until the handle removes that."""
    pick = Pick(place, num_classes)
    return pick, net.register_forward_hook(pick)


def _has(output: Any, key: str) -> bool:
    return key in output if isinstance(output, Mapping) else hasattr(output, key)
