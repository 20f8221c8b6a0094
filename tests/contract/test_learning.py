"""FAAL lifts the worst class: on `synthetic`, whose last class is the hardest by design, over three seeds.

Measured when this was written, worst-class PGD-20 accuracy from PGD-AT to FAAL: .530 to .575, .515 to .620, .525 to .575.
"""

from statistics import mean

import pytest

WORDS = (
    "data.train_size=null",
    "data.test_size=null",
    "data.batch_size=64",
    "model.width=8",
    "attack.steps=5",
    "trainer.max_epochs=8",
)
MARGIN = 0.03
COST = 0.03


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_faal_lifts_the_worst_class_over_pgd_at(launch):
    found = {}
    for method in ("pgd_at", "faal"):
        runs = [launch(f"method={method}", *WORDS, f"seed={s}", folder=f"{method}-{s}")[1]["pgd20"] for s in range(3)]
        found[method] = {key: mean(run[key] for run in runs) for key in ("average", "worst")}
        if method == "pgd_at":  # FAAL may lift it above another
            assert {run["worst_class"] for run in runs} == {"class_3"}
    assert found["faal"]["worst"] >= found["pgd_at"]["worst"] + MARGIN, found
    assert found["faal"]["average"] >= found["pgd_at"]["average"] - COST, found
