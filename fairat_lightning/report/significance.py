"""Which differences between two rows are more than noise, by one of two tests that answer different questions.

Paired: one or two seeds of each row, or the one seed that a row of one shares with a row of several. They are paired by their
number and have the same images. Images are drawn again (`bootstrap.compare`), so that p speaks of these networks on other images
of the same kind, and not of other trainings.
Welch: several seeds of each row, from three on or where no images can be paired. p speaks of other trainings.
"""

import warnings
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy import stats

from fairat_lightning import bootstrap
from fairat_lightning.report.groups import Report, alike, comparable
from fairat_lightning.report.measured import figure_of, sought
from fairat_lightning.report.runs import Group, Run

ALPHA = 0.05
MOST_PAIRED = 2  # seeds; more of them can speak of other trainings
FIGURES = {"worst": "worst class", "worst_10_percent": "worst 10 %", "average": "average"}
OTHER_CLASSES = "the figures of the rows are of different classes"


def compared(a: Group, b: Group, key: str, figure: str = "worst") -> bootstrap.Comparison | str:
    """figure(A) - figure(B) of one of FIGURES, with its interval and p-value; or a sentence that says why there is no test."""
    if without := [group.label for group in (a, b) if not any(v is not None for v in group.values(key, figure))]:
        return f"{' and '.join(without)} {'have' if len(without) > 1 else 'has'} no figures for it"
    if not comparable(a, b, key):
        return "the rows were attacked under different threat models or with different settings of the attack"
    if a.classes(key) != b.classes(key):
        return "the rows have different classes"
    if _of_other_data(a, b, key):
        return "the rows were evaluated on different data sets, or nothing says that their images are the same in the same order"
    mine, other = figures_of(a, b, key, figure)
    if not mine or not other:
        return "no seed has figures for it in both rows"
    together = pairs(a, b)
    verdicts = _verdicts(together, key, figure)
    if not isinstance(verdicts, str):
        return bootstrap.compare(*verdicts, figure, classes=len(a.classes(key)))
    if len(together) == 1:
        without = [g.label for g, run in zip((a, b), together[0], strict=True) if not run.verdicts.get(key)]
        held = f"{' and '.join(without)} {'hold' if len(without) > 1 else 'holds'} no predictions of single images for it"
        return held if without else verdicts
    if _sought(a, key, figure) != _sought(b, key, figure):
        return OTHER_CLASSES
    if min(len(mine), len(other)) == 1:
        one, two = (f"{len(values)} run{'s' if len(values) > 1 else ''}" for values in (mine, other))
        return f"{a.label} has figures of {one} and {b.label} of {two}: the test over seeds needs two or more of each"
    if stdev(mine) == stdev(other) == 0:
        return "the figure is the same in all runs of each row"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of seeds that agree to the last bit
        test = stats.ttest_ind(mine, other, equal_var=False)
        ends = test.confidence_interval(bootstrap.LEVEL)
    value, found = mean(mine) - mean(other), (float(ends.low), float(ends.high), float(test.pvalue))
    return bootstrap.Comparison(value, *found, seeds=_each(a, b, key, figure), test="welch")


def difference(a: Group, b: Group, key: str, figure: str) -> bootstrap.Comparison | None:
    """What `compared` finds; None where it says why not."""
    return None if isinstance(found := compared(a, b, key, figure), str) else found


def significant(found: bootstrap.Comparison | None) -> bool:
    return found is not None and found.p < ALPHA


def pairs(a: Group, b: Group) -> list[tuple[Run, Run]]:
    """The runs of both rows that have the same seed, or the only ones; empty where the seeds are others, unknown or there twice.

    Of a row with one seed and another with several it is the seed that both have.
    """
    if len(a.runs) == len(b.runs) == 1:
        return [(a.runs[0], b.runs[0])]
    mine, other = ({run.facts.get("seed"): run for run in group.runs} for group in (a, b))
    if len(mine) < len(a.runs) or len(other) < len(b.runs) or None in {*mine, *other}:
        return []
    if mine.keys() != other.keys() and min(len(mine), len(other)) > 1:
        return []
    return [(run, other[seed]) for seed, run in mine.items() if seed in other]


def shared_seed(a: Group, b: Group) -> Any:
    """The one seed in which a row of one seed and a row of several are compared; None for other rows."""
    together = pairs(a, b)
    return together[0][0].facts["seed"] if len(together) == 1 < max(len(a.runs), len(b.runs)) else None


def against(report: Report) -> dict[str, list[dict[str, Any]]]:
    """By label, for each control of a row with the same classes: "label", its own, and FIGURES for each attack and for "clean".

    A figure has "difference", "low", "high", "p", "test" ("paired" or "welch") and "seeds", each seed's own difference; where it
    could not be tested, low, high, p and test are None and "why" says why; "difference" is None where a row lacks the figure.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for group, base in comparisons(report):
        entry: dict[str, Any] = {"label": base.label}
        for key in sorted(report.keys, key=lambda key: (key != report.main, key == "clean")):
            if all(any(v is not None for v in g.values(key, "worst")) for g in (group, base)):
                entry[key] = {figure: _cell(group, base, key, figure) for figure in FIGURES}
        found.setdefault(group.label, []).append(entry)
    return found


def comparisons(report: Report) -> list[tuple[Group, Group]]:
    """Every row with each of its controls that has the same classes."""
    return [(group, base) for group in report.groups for base in report.controls_of(group) if alike(base, group)]


def _cell(group: Group, base: Group, key: str, figure: str) -> dict[str, Any]:
    if not isinstance(found := compared(group, base, key, figure), str):
        return {**found._asdict(), "seeds": list(found.seeds)}
    mine, other = figures_of(group, base, key, figure)
    nothing: dict[str, Any] = dict.fromkeys(("low", "high", "p", "test"))
    value = mean(mine) - mean(other) if mine and other else None
    return {"difference": value, **nothing, "seeds": list(_each(group, base, key, figure)), "why": found}


def _each(a: Group, b: Group, key: str, figure: str) -> tuple[float, ...]:
    """The difference of each seed; empty where the seeds of the rows do not go together."""
    return tuple(one - other for one, other in zip(*figures_of(a, b, key, figure), strict=True)) if pairs(a, b) else ()


def figures_of(a: Group, b: Group, key: str, figure: str) -> tuple[list[float], list[float]]:
    """The figure of the seeds that have it in both rows; of all seeds of each row where these do not go together."""
    if found := pairs(a, b):
        both = [[figure_of(run.summaries.get(key), figure) for run in pair] for pair in found]
        known = [(one, other) for one, other in both if one is not None and other is not None]
        return [one for one, _ in known], [other for _, other in known]
    mine, other = ([v for v in group.values(key, figure) if v is not None] for group in (a, b))
    return mine, other


def _of_other_data(a: Group, b: Group, key: str) -> bool:
    """Whether the rows are of other images: by their data sets, and where a folder says which images these are, or nothing does,
    by the fingerprints of the images. Other folders of which nothing says that they hold the same ones count as other images.
    """
    mine, other = ({run.data for run in group.runs if run.data is not None} for group in (a, b))
    if mine and other and not {data[:2] for data in mine} & {data[:2] for data in other}:
        return True
    if any(not folder for _, _, folder in mine & other):
        return False
    for way in ("evaluate", "benchmark"):
        one, two = (_prints(group, key, way) for group in (a, b))
        if {n for n, _ in one} & {n for n, _ in two}:
            return not one & two
    return bool(mine and other) and not mine & other


def _prints(group: Group, key: str, way: str) -> set[tuple[int, str]]:
    """How many images the seeds met, and their fingerprints of this kind: under `key`, or where it has none under any attack."""
    found = [run.verdicts.get(key) or next(iter(run.verdicts.values()), None) for run in group.runs]
    return {(len(one.image), one.pixels[way]) for one in found if one is not None and way in one.pixels}


def _sought(group: Group, key: str, figure: str) -> set[frozenset[str]]:
    """The classes that the figure of each run is of."""
    found = [summary for run in group.runs if (summary := run.summaries.get(key)) is not None]
    if figure == "average":
        return {frozenset(name for name, rate in summary["per_class"].items() if rate is not None) for summary in found}
    return {frozenset(sought(summary)) for summary in found}


def _verdicts(found: Sequence[tuple[Run, Run]], key: str, figure: str) -> tuple[Any, Any, Any] | str:
    """Whether A and B are right on each image (S,N), (S,N), nan where a seed takes no account of it, and the labels (N,).

    A sentence where A and B of a seed are of different images, or seek the worst among different classes.
    """
    if not 0 < len(found) <= MOST_PAIRED:
        return f"the paired test needs one or two seeds that both rows have, and there are {len(found)}"
    found = [pair for pair in found if all(key in run.summaries for run in pair)]
    both = [(one, other) for a, b in found if (one := a.verdicts.get(key)) and (other := b.verdicts.get(key))]
    if len(both) < len(found) or not both:
        return "some runs hold no predictions of single images for it"
    labels = np.full(1 + max(one.image.max(initial=0) for one, _ in both), -1)
    right = np.full((2, len(both), len(labels)), np.nan)
    for s, (one, other) in enumerate(both):
        alike = np.array_equal(one.image, other.image) and np.array_equal(one.label, other.label)
        shared = one.pixels.keys() & other.pixels.keys()
        ways = shared & {"evaluate"} or shared  # a benchmark's own way tells bytes from the same bytes divided by 255
        if not alike or any(one.pixels[way] != other.pixels[way] for way in ways):
            return "their images are not the same in the same order, as the paired test needs"
        if one.pixels and other.pixels and not shared:
            return "an older version evaluated one of them and did not note its images in the same way: evaluate it again"
        before, labels[one.image] = labels[one.image], one.label
        if ((before >= 0) & (before != one.label)).any():
            return "the seeds have different images"  # in one place
        account = np.ones(len(one.image), dtype=bool)
        if figure != "average":
            mine, others = (run.summaries[key].get("worst_of") for run in found[s])
            if set(mine or ()) != set(others or ()):
                return "the worst classes of the rows are sought among different classes"
            if mine:
                account = np.isin(one.label, [list(found[s][0].summaries[key]["per_class"]).index(name) for name in mine])
        for row, verdicts in zip(right, (one, other), strict=True):
            row[s, one.image[account]] = (verdicts.predicted == verdicts.label)[account]
    here = labels >= 0
    return right[0][:, here], right[1][:, here], labels[here]
