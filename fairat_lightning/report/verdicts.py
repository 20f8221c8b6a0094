"""The verdict on every image under one attack, or after several: which of them a summary's figures were made of."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Verdicts(NamedTuple):
    """For one stage the place in the test set, label and predicted class of every image, (N,) each, in the order of places.

    `pixels` are fingerprints of all images that were evaluated, by how they were made; empty where the record has none.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    pixels: Mapping[str, str] = {}


def verdicts_of(key: str, summary: Mapping[str, Any], stages: Mapping[str, Verdicts]) -> Verdicts | None:
    """The verdicts that `summary` was made of: those of the stage `key`, or what survived all stages up to it; else None.

    Verdicts of other class accuracies than the summary's, or of other numbers of images, are of something else, and are not used.
    """
    attacks = [name for name in stages if name != "clean"]
    until = attacks[: attacks.index(key) + 1] if key in attacks else attacks
    candidates = [stages[key]] if key in stages else []
    if key != "clean" and until:
        candidates += [_survival([stages[name] for name in until])]
        candidates += [_survival([stages[name] for name in ("clean", *until)])] if "clean" in stages else []
    for verdicts in candidates:
        expected = list(summary["per_class"].values())
        counts = np.bincount(verdicts.label, minlength=len(expected))
        right = np.bincount(verdicts.label[verdicts.label == verdicts.predicted], minlength=len(expected))
        given = summary.get("counts")
        if given and list(given.values()) != counts.tolist():
            continue
        if len(counts) == len(expected) and all(
            (n == 0) if a is None else n > 0 and abs(r / n - a) < 1e-6 for a, n, r in zip(expected, counts, right, strict=True)
        ):
            return verdicts
    return None


def _survival(stages: Sequence[Verdicts]) -> Verdicts:
    """Each image with its first wrong prediction, or its label if no stage changed it."""
    label: dict[int, int] = {}
    predicted: dict[int, int] = {}
    for stage in stages:
        for i, y, p in zip(*(part.tolist() for part in stage[:3]), strict=True):
            if predicted.get(i, y) == y:
                label[i], predicted[i] = y, p
    index = sorted(label)
    labels, classes = (np.array([found[i] for i in index]) for found in (label, predicted))
    return Verdicts(np.array(index), labels, classes, stages[0].pixels)
