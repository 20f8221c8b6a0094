"""CSR: confusional spectral regularisation.

Jin, Wu, Liu, Huang and Mu, "Enhancing Robust Fairness via Confusional Spectral Regularization", ICLR 2025, arXiv 2501.13273.
The worst class's robust error is bounded by the spectral norm of the robust confusion matrix. Before each epoch a pass over the
training set in eval mode, under an attack on the cross-entropy, with the true logit z_y lowered to z_y - gamma |z_y|, counts

    C[k, j] = share of class j that is predicted k != j,      u, v = its leading singular vectors,
    G = u v^T, scaled to [.01, 2.01],
    loss = mean_i [ (1 - share) supervised_i + beta consistency_i + share G[yhat_i, y_i] CE(x'_i) ],

yhat the prediction at x'. Deviations: the code multiplies the true logit by 1 - gamma, which raises a negative one:
`multiplied=True`; it takes C from counts, ours from shares, the same for equal classes; its confusion term is a KL divergence
from G times the one-hot label, which is G CE + G log G and has the same gradient. The pass looks at the unaugmented images.
Without any error G is 1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairat_lightning.methods.base import Method
from fairat_lightning.objectives import AT, logits_of
from fairat_lightning.settings import switch, within

LEAST, MOST = 0.01, 2.01


def spectral_weights(confusion: Tensor) -> Tensor:
    """G (C,C) of an error matrix (C,C), row: predicted, column: true; all 1 where u v^T is constant, or the matrix zero."""
    u, _, v = torch.linalg.svd(confusion.double())
    g = u[:, 0, None] * v[0]
    spread = g.max() - g.min()
    spread = torch.where(spread > 1e-9 * g.abs().max(), spread, 0.0)  # not the rounding of a constant
    scaled = LEAST + (MOST - LEAST) * (g - g.min()) / torch.where(spread > 0, spread, 1.0)
    return torch.where(confusion.abs().sum() * spread > 0, scaled, 1.0)


class CSR(Method):
    """`share`, in [0, 1]: of the confusion term. `gamma`, in [0, 1): the margin of an error. `multiplied`: see above."""

    pair_weight: Tensor

    def __init__(self, *args: Any, share: float, gamma: float, multiplied: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        switch("method.multiplied", multiplied)
        self.multiplied = multiplied
        within("method.share", share, "[0, 1]")
        within("method.gamma", gamma, "[0, 1)")
        self.share, self.gamma = share, gamma
        self.register_buffer("pair_weight", torch.ones(self.num_classes, self.num_classes))

    def on_train_epoch_start(self) -> None:
        def predicted(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
            logits = logits_of(self.net, self.craft_fixed(x, y, index, AT().inner))
            own = logits.gather(1, y[:, None])
            logits = logits.scatter(1, y[:, None], own - self.gamma * (own if self.multiplied else own.abs()))
            return F.one_hot(logits.argmax(1), self.num_classes)

        rows = self.measure(self.training_batches(), predicted, width=self.num_classes).nan_to_num(nan=0.0)
        self.pair_weight.copy_(spectral_weights(rows.fill_diagonal_(0).T))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        confused = self.pair_weight[terms.logits.argmax(1), y] * F.cross_entropy(terms.logits, y, reduction="none")
        plain = self.objective.total(terms._replace(supervised=(1 - self.share) * terms.supervised))
        return self.reduce(plain + self.share * confused)
