"""Where the logits are in what a network returns: a tuple, a dict or an object such as Hugging Face's `ModelOutput`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Place = int | str | Callable[[Any], Any] | None


class Pick:
    """A forward hook that hands on the logits alone: at an index, under a key or attribute, or as a function finds them.

    With `place` None they are found under "logits", or else at index 0; `found` says where, None while nothing had to be picked.
    """

    def __init__(self, place: Place = None):
        self.place, self.found = place, None if place is None else str(place)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self.place is None and isinstance(output, Tensor):
            return output
        return self.pick(output)

    def pick(self, output: Any) -> Any:
        """The logits in `output`. ValueError where they are not there."""
        if callable(self.place):
            return self.place(output)
        place = self.place if self.place is not None else "logits" if _has(output, "logits") else 0
        self.found = repr(place)
        try:
            if isinstance(place, str) and not isinstance(output, Mapping):
                return getattr(output, place)
            return output[place]
        except (AttributeError, KeyError, IndexError, TypeError):
            raise ValueError(
                f"the network returns a {type(output).__name__} without {place!r}: say where its logits are, with logits="
            ) from None


def picking(net: nn.Module, place: Place = None) -> tuple[Pick, RemovableHandle]:
    """Let `net` return its logits alone, until the handle removes that."""
    pick = Pick(place)
    return pick, net.register_forward_hook(pick)


def _has(output: Any, key: str) -> bool:
    return key in output if isinstance(output, Mapping) else hasattr(output, key)
