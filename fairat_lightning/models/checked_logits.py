"""A network whose answers are checked: finite logits of the right shape, or an error."""

from torch import Tensor, nn


class Checked(nn.Module):
    """`net`, which must return finite logits (B, num_classes); ValueError where it does not."""

    def __init__(self, net: nn.Module, num_classes: int):
        super().__init__()
        self.net, self.num_classes = net, num_classes

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        if not isinstance(logits, Tensor) or logits.shape != (len(x), self.num_classes):
            what = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise ValueError(f"the network returns {what} for {len(x)} images: logits (images, {self.num_classes}) are needed")
        if not logits.isfinite().all():
            raise ValueError("the network returns nan or infinite logits: it cannot be judged")
        return logits
