"""The rows in numbers: mean, spread and interval of every figure, and what the report finds, in sentences (`claim.sentence`).

One seed a row: the interval of its record. Several seeds: mean, sample standard deviation and the 95 % interval of the mean by
Student's t. `significance.py` tests differences. Figures are in [0,1] here, in percent where a person reads.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan, sqrt
from statistics import mean, stdev
from typing import Any

from scipy import stats

from fairat_lightning import bootstrap, metrics
from fairat_lightning.report.claim import sentence
from fairat_lightning.report.groups import LOWEST, Report, alike, lowest
from fairat_lightning.report.runs import Group, Run
from fairat_lightning.report.significance import against, comparisons, difference, significant

MAIN_FIGURES = ("average", "worst", "worst_10_percent")
Cell = dict[str, Any]


def cell(group: Group, key: str, figure: str) -> Cell:
    """Mean, sample standard deviation and values of one figure over the seeds, and where there is one its interval.

    None stands for what does not exist: the mean without values, the deviation with one value.
    """
    values = group.values(key, figure)
    present = [v for v in values if v is not None]
    result: Cell = {
        "mean": mean(present) if present else None,
        "std": stdev(present) if len(present) > 1 else None,
        "values": values,
    }
    if len(present) > 1:
        half = float(stats.t.ppf((1 + bootstrap.LEVEL) / 2, len(present) - 1)) * result["std"] / sqrt(len(present))
        low, high = result["mean"] - half, result["mean"] + half
        # Outside of these an accuracy cannot lie; other figures may.
        result |= {"low": max(low, 0.0), "high": min(high, 1.0)} if figure in MAIN_FIGURES else {"low": low, "high": high}
    elif len(present) == 1:
        interval = next(run.summaries[key].get("interval", {}).get(figure) for run in group.runs if key in run.summaries)
        result |= {"low": interval[0], "high": interval[1]} if interval else {}
    return result


def rows(report: Report) -> list[dict[str, Any]]:
    """For each row "label", "runs" and `cell`s "<attack>_<figure>", with "best" where `best` says so; and "<attack>_rho".

    A row with a control has `significance.against` it under "against".
    """
    present = dict.fromkeys(key for group in report.groups for run in group.runs for key in run.summaries)
    shown = ("average", report.lowest)
    found = []
    for group in report.groups:
        row: dict[str, Any] = {"label": group.label, "runs": len(group.runs)}
        seconds = [s for run in group.runs if isinstance(s := _trained(run), int | float)]
        if len(seconds) == len(group.runs):
            row["train_seconds"] = {"mean": mean(seconds), "std": None, "values": seconds}
        for key in present:
            extra = (name for run in group.runs for name in run.summaries.get(key, {}).get("figures", ()))
            for figure in dict.fromkeys([*MAIN_FIGURES, *extra, "worst_bias"]):
                if figure in ("worst", *shown) or any(v is not None for v in group.values(key, figure)):
                    row[f"{key}_{figure}"] = cell(group, key, figure)
        found.append(row)
    for key in report.keys:
        for figure in shown:
            winner = best(report, key, figure)
            for group, row in zip(report.groups, found, strict=True):
                if group is winner:
                    row[f"{key}_{figure}"]["best"] = True
    by_label = {row["label"]: row for row in found}
    for group, row in zip(report.groups, found, strict=True) if len(found) > 1 else ():
        base = report.baseline(group) if report.controls else report.groups[0]
        if base is None or not alike(base, group):
            continue
        for key in report.robust:
            row[f"{key}_rho"] = {"mean": _rho(row, by_label[base.label], key), "std": None, "values": []}
    for label, differences in against(report).items():
        by_label[label]["against"] = differences
    return found


def _trained(run: Run) -> Any:
    """Seconds of training: of the processors where there was no GPU, since another job beside it does not lengthen them."""
    seconds, hardware = (run.facts.get(name) for name in ("seconds", "hardware"))
    if not isinstance(seconds, Mapping) or not isinstance(hardware, Mapping | None):
        return None
    hardware = hardware or {}
    return seconds.get("train") if hardware.get("gpu") else seconds.get("train_cpu", seconds.get("train"))


def worst_first(report: Report, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows by their weakest classes under the main attack, the highest first; rows without the figure last."""
    means = [row[f"{report.main}_{report.lowest}"]["mean"] for row in rows]
    return [rows[k] for k in sorted(range(len(rows)), key=lambda k: (means[k] is None, -(means[k] or 0)))]


def best(report: Report, key: str, figure: str) -> Group | None:
    """The row that is better than every other row that has the figure, each at p < .05; None as a rule, and for one row."""
    means = {k: cell(group, key, figure)["mean"] for k, group in enumerate(report.groups)}
    ranked = sorted((k for k, v in means.items() if v is not None), key=lambda k: -means[k])
    if len(ranked) < 2 or means[ranked[0]] == means[ranked[1]]:
        return None
    top = report.groups[ranked[0]]
    # The runner-up first: where it is not beaten, the others need no test.
    return top if all(_above(difference(top, report.groups[k], key, figure)) for k in ranked[1:]) else None


def _above(found: bootstrap.Comparison | None) -> bool:
    """Whether the gain is significant: the means of all seeds say nothing of the sign in the one seed that two rows share."""
    return found is not None and found.difference > 0 and significant(found)


def headline(report: Report) -> list[str]:
    """What the report finds, in sentences: of one row what it is, of two how they differ, of more whether one stands out.

    The first sentence is of the main attack wherever both rows have met it.
    """
    title, key, figure = report.titles[report.main], report.main, report.lowest
    first, what = report.groups[0], LOWEST[figure]
    worst = {id(group): cell(group, key, figure)["mean"] for group in report.groups}
    if len(report.groups) == 1:
        return [_alone(report, first)]
    if len(report.groups) == 2:
        other = report.groups[1]
        if not alike(first, other):
            return [_alone(report, group) for group in report.groups]
        attacks = [attack for attack in report.robust or report.keys if first.classes(attack) and other.classes(attack)]
        if not attacks:
            return [
                f"Not tested: whether {other.label} is fairer than {first.label}; they share no attack of the same norm and eps."
            ]
        attacks.sort(key=lambda attack: attack != report.main)
        return [sentence(first, other, attack, report.titles[attack]) for attack in attacks]
    ranked = sorted((g for g in report.groups if worst[id(g)] is not None), key=lambda g: -worst[id(g)])
    if not ranked:
        return [f"No row has figures for {title}."]
    value = f"{100 * worst[id(ranked[0])]:.1f} %"
    if best(report, key, figure) is ranked[0]:
        others = "every other row" if len(ranked) == len(report.groups) else "every other row with a figure for it"
        return [f"{ranked[0].label} has the best {what} under {title}: {value}, better than {others} at p < .05."]
    return [f"No row's {what} under {title} is significantly better than all others'; {ranked[0].label} has {value}."]


def _alone(report: Report, group: Group) -> str:
    """What one row is, under the main attack or the first other that it has met."""
    key = next((key for key in (report.main, *report.robust, *report.keys) if group.classes(key)), report.main)
    figure = lowest([group], key)
    average, worst = (cell(group, key, name)["mean"] for name in ("average", figure))
    if average is None:
        return f"No class of {group.label} has an image: there is nothing to say."
    name = weakest(group, key) if figure == "worst" else None
    return (
        f"{group.label} under {report.titles[key]}: {100 * average:.1f} % of the images right, averaged over the classes, and "
        f"{100 * worst:.1f} % in its {LOWEST[figure]}" + (f", {name}." if name else ".")
    )


def against_controls(report: Report) -> list[str]:
    """With more than two rows: each against its controls of the same classes, under the main attack."""
    found = comparisons(report) if len(report.groups) > 2 else []
    return [sentence(base, group, report.main, report.titles[report.main]) for group, base in found]


def weakest(group: Group, key: str) -> str | None:
    """The class with the lowest mean accuracy over the seeds."""
    names = _sought(group, key)
    means = {name: mean(v) for name in names if (v := group.class_values(key, name))}
    return min(means, key=means.__getitem__, default=None)


def _sought(group: Group, key: str) -> list[str]:
    """The classes that the worst is sought among: all, or those that any run names in "worst_of"."""
    named = dict.fromkeys(name for run in group.runs for name in run.summaries.get(key, {}).get("worst_of", ()))
    return list(named) or group.classes(key)


def mean_of(group: Group) -> dict[str, Any]:
    """The summaries of several seeds as one: every figure the mean over those that have it; `worst` is the mean of the worst."""

    def over(values: Iterable[float | None]) -> float | None:
        present = [v for v in values if v is not None]
        return mean(present) if present else None

    result = {}
    for key in dict.fromkeys(key for run in group.runs for key in run.summaries):
        per_class = {name: over(group.class_values(key, name)) for name in group.classes(key)}
        present = {c: a for c in _sought(group, key) if (a := per_class[c]) is not None}
        result[key] = {
            "average": over(group.values(key, "average")),
            "worst": over(group.values(key, "worst")),
            "worst_class": min(present, key=present.__getitem__, default=None),
            "per_class": per_class,
        }
    return result


def bias_note(report: Report) -> str | None:
    """How far the worst class is expected to lie too low because each class has few images; None where nothing says."""
    biases = [cell(group, report.main, "worst_bias")["mean"] for group in report.groups]
    points = sorted(max(0.0, -100 * b) for b in biases if b is not None)
    if not points or report.lowest != "worst":
        return None
    low, high = f"{points[0]:.1f}", f"{points[-1]:.1f}"
    return (
        "The lowest of several measured accuracies tends to lie below the lowest true one, the more so the fewer images a class "
        f"has: under {report.titles[report.main]} by an estimated {low if low == high else f'{low} to {high}'} points here. "
        f"Intervals of single runs allow for it; the figures{' and means over seeds' if report.seeds else ''} do not."
    )


def _rho(row: dict[str, Any], first: dict[str, Any], key: str) -> float | None:
    values = [r[f"{key}_{figure}"]["mean"] for r in (row, first) for figure in ("worst", "average")]
    found = nan if None in values else metrics.rho(*values)
    return None if isnan(found) else found
