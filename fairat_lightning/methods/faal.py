"""FAAL: fairness-aware adversarial learning.

Zhang, Zhang, Mu, Huang and Ruan, "Towards Fairness-Aware Adversarial Learning", CVPR 2024, arXiv 2402.17729.

    min_theta  max_{p: KL(u || p) <= r}  sum_k p_k  max_{x'} loss_k

(1) craft; (2) the class margins m_k = mean_{y_i = k} [ max_{j != k} p_j(x'_i) - p_k(x'_i) ] of the batch give the worst class
distribution p*, in closed form (`dro.py`); (3) minimise (K'/B) sum_i p*[y_i] loss_i over the K' classes present.

Ours, where the paper's text and code leave a choice: the margins come, detached, from the same forward as the loss (on the
AWP-perturbed weights when AWP is on); the classes and the batch are the global ones; AWP ascends the unweighted loss. With MART
the code crafts by TRADES's divergence and has beta 6: `objective=mart objective.crafting=kl objective.beta=6`. The released
code scores a class by its SUM of margins, so that an absent class scores 0, above all others: `count_weighted=True` is that
rule. `memory` remembers margins across batches (`parts/worst_case.py`), for many classes.
"""

from typing import Any

from torch import Tensor

from fairat_lightning.methods.base import Method
from fairat_lightning.methods.parts.worst_case import WorstCase


class FAAL(Method):
    """Weight each class by its worst-case probability within KL `radius` (nats) of uniform."""

    def __init__(self, *args: Any, radius: float, count_weighted: bool = False, memory: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.worst_case = WorstCase(self.num_classes, radius=radius, memory=memory, count_weighted=count_weighted)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, _ = self.unpack(batch)
        x_adv = self.craft(x, y)
        self.ascend(x, x_adv, y)
        terms = self.score(x, x_adv, y)
        weights = self.worst_case(terms.logits, y)
        return self.reduce(weights[y] * self.objective.total(terms))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log_classes("train/class_weight", self.worst_case.mean_weights())
