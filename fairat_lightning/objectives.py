"""What adversarial training maximises inside and minimises outside, as per-sample terms that nothing has reduced yet.

With f the logits, p = softmax f, x' the adversarial image and q the (smoothed) target:

    AT      Madry et al., ICLR 2018, arXiv 1706.06083
            inside CE(f(x'), y);  outside CE(f(x'), q)
    TRADES  Zhang et al., ICML 2019, arXiv 1901.08573, eq. 5
            inside KL(p(x) || p(x'));  outside CE(f(x), q) + beta * KL(p(x) || p(x'))
    MART    Wang et al., ICLR 2020, table 1 and eq. 10
            inside CE(f(x'), y), or TRADES's with crafting="kl";  outside BCE(x') + beta * KL(p(x) || p(x')) * (1 - p_y(x)),
            BCE(x') = -sum_k q_k log p_k(x') - log(1 - max_{k != y} p_k(x'))

Gradients flow through both arguments of KL, as in the authors' code. Label smoothing touches the supervised term only,
never the attack; for MART it is our extension. MART's authors start as TRADES's do (`attack.start=gaussian`), and add 1e-4 and
1e-12 inside logarithms (`objective.guards=true`), which moves the loss by less than .002 while no wrong class has more than .9
and no class less than 1e-8. FAAL's code crafts with KL for MART, with beta 6: `objective.crafting=kl`. Logits are cast to float32
before any loss.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairat_lightning.settings import one_of, switch, within


class Terms(NamedTuple):
    """Per-sample terms of an objective.

    supervised (B,): the term that sees the label. consistency (B,): clean against adversarial, before beta.
    logits (B,C): at x'. clean_logits (B,C): at x, None where the objective needs no clean forward.
    """

    supervised: Tensor
    consistency: Tensor
    logits: Tensor
    clean_logits: Tensor | None


class AT:
    """Cross-entropy at the adversarial image. `label_smoothing` in [0, 1)."""

    start = "uniform"

    def __init__(self, label_smoothing: float = 0.0):
        within("objective.label_smoothing", label_smoothing, "[0, 1)")
        self.label_smoothing = label_smoothing
        self.beta = 0.0

    def inner(self, net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        """The function of the image (B,C,H,W) -> (B,) that the attack maximises."""
        return lambda image: F.cross_entropy(logits_of(net, image), y, reduction="none")

    def inner_with_logits(
        self, net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """`inner` that also gives the logits (B,C) at the image, of the same forward pass."""
        last: list[Tensor] = []

        def forward(image: Tensor) -> Tensor:
            last[:] = [logits_of(net, image)]
            return last[0]

        loss = self.inner(forward, x, y)
        return lambda image: (loss(image), last.pop())

    def __call__(self, net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Terms:
        """The terms at images `x`, `x_adv` (B,C,H,W) and labels `y` (B,)."""
        logits = logits_of(net, x_adv)
        supervised = self.cross_entropy(logits, y)
        return Terms(supervised, torch.zeros_like(supervised), logits, None)

    def total(self, terms: Terms) -> Tensor:
        """supervised + beta * consistency, (B,)."""
        return terms.supervised + self.beta * terms.consistency if self.beta else terms.supervised

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy (B,) against the smoothed labels."""
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=self.label_smoothing)


class TRADES(AT):
    """Clean cross-entropy plus `beta` times the KL divergence of the adversarial from the clean prediction."""

    start = "gaussian"  # at x itself the KL has no gradient; the authors start 0.001 * N(0, 1) away

    def __init__(self, beta: float, label_smoothing: float = 0.0):
        super().__init__(label_smoothing)
        self.beta = _beta(beta)

    def inner(self, net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        return divergence(net, x)

    def __call__(self, net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Terms:
        clean, logits = logits_of(net, x), logits_of(net, x_adv)
        return Terms(self.cross_entropy(clean, y), kl(clean, logits), logits, clean)


class MART(AT):
    """Boosted cross-entropy plus `beta` times a KL divergence that looks at the misclassified.

    `crafting`: what the attack maximises, "ce" as MART's authors, or "kl" as TRADES, with its start. `guards`: the small numbers
    that the authors' code adds where it takes logarithms, and to the factor of the divergence.
    """

    def __init__(self, beta: float, label_smoothing: float = 0.0, crafting: str = "ce", guards: bool = False):
        super().__init__(label_smoothing)
        self.beta = _beta(beta)
        one_of("objective.crafting", crafting, ("ce", "kl"))
        switch("objective.guards", guards)
        self.crafting, self.guards = crafting, guards
        if crafting == "kl":
            self.start = TRADES.start

    def inner(self, net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        return super().inner(net, x, y) if self.crafting == "ce" else divergence(net, x)

    def __call__(self, net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Terms:
        clean, logits = logits_of(net, x), logits_of(net, x_adv)
        probabilities = logits.softmax(1)
        runner_up = probabilities.scatter(1, y[:, None], -1).amax(1)
        unsure = 1 - clean.softmax(1).gather(1, y[:, None]).squeeze(1)
        if self.guards:
            boost = -(1.0001 - runner_up + 1e-12).log()
            apart = F.kl_div((probabilities + 1e-12).log(), clean.softmax(1), reduction="none").sum(1)
            return Terms(self.cross_entropy(logits, y) + boost, apart * (unsure + 1e-7), logits, clean)
        # One ulp below 1, so that the logarithm and its gradient stay finite.
        boost = -torch.log1p(-runner_up.clamp(max=1 - torch.finfo(logits.dtype).eps))
        return Terms(self.cross_entropy(logits, y) + boost, kl(clean, logits) * unsure, logits, clean)


Objective = AT


def margin(scores: Tensor, y: Tensor) -> Tensor:
    """max_{k != y} scores_k - scores_y: (B,C), (B,) -> (B,). Positive where misclassified.

    On logits it is the margin loss of Carlini and Wagner (S&P 2017, arXiv 1608.04644); on probabilities, FAAL's margin.
    """
    own = scores.gather(1, y[:, None]).squeeze(1)
    return scores.scatter(1, y[:, None], -torch.inf).amax(1) - own


def kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(softmax p || softmax q) per sample: (B,C), (B,C) -> (B,), in nats."""
    return F.kl_div(logits_q.log_softmax(1), logits_p.log_softmax(1), reduction="none", log_target=True).sum(1)


def divergence(net: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """The function of the image (B,C,H,W) -> (B,) that is the KL divergence of its prediction from that of `x`."""
    with torch.no_grad():
        clean = logits_of(net, x)
    return lambda image: kl(clean, logits_of(net, image))


def logits_of(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`net(x)` in float32, or in float64 if the network computes in it."""
    logits = net(x)
    return logits if logits.dtype == torch.float64 else logits.float()


def _beta(beta: float) -> float:
    within("objective.beta", beta, "[0, inf)")
    return float(beta)
