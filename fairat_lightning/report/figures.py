"""The class-wise figures. Every function returns a matplotlib `Figure` of its own, outside pyplot; `style.save` writes one.

Of more than 20 classes the 20 weakest are drawn, and the axis says so.
"""

from collections.abc import Mapping, Sequence
from math import nan, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fairat_lightning.record.attack_titles import TITLES
from fairat_lightning.report.groups import LOWEST
from fairat_lightning.report.runs import Group, Verdicts
from fairat_lightning.report.style import BLUE, COLOURS, GREY, INK, MARKERS, NARROW, PAPER, fill, legend, save, styled

MOST_CLASSES, MOST_BARS = 20, 8


@styled()
def class_bars(
    runs: Mapping[str, Mapping[str, Any]], attacks: Sequence[str] = ("clean", "pgd20", "cw20"), titles: Mapping[str, str] = TITLES
) -> Figure:
    """Bars of the accuracy per class, for each attack of each run: one group of bars per class, weakest class first."""
    series = [(label, name, m[name]) for label, m in runs.items() for name in attacks if name in m]
    last = [summary["per_class"] for _, name, summary in series if name == series[-1][1]]
    classes, hidden = weakest_first({c: [a for s in last if (a := s.get(c)) is not None] for c in series[0][2]["per_class"]})
    width = 0.8 / len(series)
    figure = Figure(figsize=(min(16, max(7, 0.32 * len(classes) * len(series))), 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (label, name, summary) in enumerate(series):
        heights = [nan if (a := summary["per_class"].get(c)) is None else 100 * a for c in classes]
        places = [k + (i - (len(series) - 1) / 2) * width for k in range(len(classes))]
        title = titles.get(name, name)
        words = title if len(runs) == 1 else f"{label}, {title}" if len(attacks) > 1 else label
        colour = COLOURS[i % len(COLOURS)]
        average, worst = (nan if summary[k] is None else 100 * summary[k] for k in ("average", "worst"))
        lowest = "" if hidden else f", worst {worst:.1f}"
        axes.bar(places, heights, width * 0.92, label=f"{words}: average {average:.1f}{lowest}", **fill(i))
        axes.axhline(average, color=colour, linewidth=0.8, linestyle="--", zorder=0)
    _name_classes(axes, classes)
    what = f"{titles.get(series[0][1], series[0][1])} accuracy" if len({name for _, name, _ in series}) == 1 else "accuracy"
    axes.set(ylabel=f"{what} (%)", ylim=(0, 100), xlim=(-0.6, len(classes) - 0.4), xlabel=_left_out(classes, hidden))
    legend(figure, axes)
    return figure


def draw_classes(runs: Mapping[str, Mapping[str, Any]], path: Path, attacks: Sequence[str] = ("clean", "pgd20", "cw20")) -> None:
    """`class_bars` saved at `path`."""
    save(class_bars(runs, attacks), path)


@styled()
def row_points(rows: Sequence[Mapping[str, Any]], key: str = "pgd20", title: str = "PGD-20", lowest: str = "worst") -> Figure:
    """Average accuracy of each row and that of its weakest classes, with one standard deviation over seeds."""
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate((lowest, "average")):
        cells = [row[f"{key}_{name}"] for row in rows]
        values = [nan if c["mean"] is None else 100 * c["mean"] for c in cells]
        spreads = [100 * (c["std"] or 0) for c in cells]
        words = LOWEST.get(name, name)
        axes.errorbar(values, range(len(rows)), xerr=spreads, fmt=MARKERS[i], color=COLOURS[i], capsize=3, label=words)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    many = any(row["runs"] > 1 for row in rows)
    axes.set(xlabel=f"{title} accuracy (%)" + (", mean and standard deviation over seeds" if many else ""))
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@styled()
def class_accuracies(groups: Sequence[Group], key: str, title: str) -> Figure:
    """The average, then the accuracy per class, weakest first; one colour a row, for each row that has met the attack.

    Whiskers are one standard deviation over seeds, or of the binomial. More than 8 rows are a map of rows and classes.
    """
    classes, hidden = shown_classes(groups, key)
    if len(groups) > MOST_BARS:
        return _accuracy_map(groups, key, title, classes, hidden)
    shown = [(i, group) for i, group in enumerate(groups) if group.classes(key)]
    places = np.arange(len(classes) + 1.0)
    places[1:] += 0.4
    width = 0.84 / len(shown)
    figure = Figure(figsize=(min(14, max(9, 0.16 * len(places) * (len(shown) + 1))), 3.9), layout="constrained")
    axes = figure.subplots()
    for k, (i, group) in enumerate(shown):
        averages = [v for v in group.values(key, "average") if v is not None]
        found = [(mean(averages), stdev(averages) if len(averages) > 1 else nan) if averages else (nan, nan)]
        found += [_mean_and_spread(group, key, name) for name in classes]
        heights, spreads = [100 * a for a, _ in found], [100 * s for _, s in found]
        here = places + (k - (len(shown) - 1) / 2) * width
        axes.bar(here, heights, width * 0.92, label=group.label, **fill(i))
        axes.errorbar(here, heights, spreads, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5)
    axes.axvline(0.7, color=GREY, linewidth=0.8)
    _name_classes(axes, ["average", *classes], places)
    axes.set(ylabel=f"{title} accuracy (%)", ylim=(0, 100), xlim=(-0.6, places[-1] + 0.6))
    axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.6)
    axes.set_xlabel(_left_out(classes, hidden))
    legend(figure, axes)
    return figure


@styled()
def clean_against_robust(groups: Sequence[Group], key: str, title: str) -> Figure:
    """A point for each class of each row: its clean accuracy against its accuracy under the attack, weakest classes named."""
    figure = Figure(figsize=(NARROW, 4.6), layout="constrained")
    axes = figure.subplots()
    lows: list[float] = []
    for i, group in enumerate(groups):
        points: list[tuple[float, float, str]] = []
        for name in group.classes(key):
            clean, robust = group.class_values("clean", name), group.class_values(key, name)
            if clean and robust:
                points.append((100 * mean(robust), 100 * mean(clean), name))
        if not points:
            continue
        points.sort()
        lows += [p[1] for p in points]
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        places = [p[1] for p in points], [p[0] for p in points]
        axes.scatter(*places, s=30, c=colour, marker=marker, linewidths=0, alpha=0.85, label=group.label)
        for y, x, name in points[:1] if len(groups) > 2 else points[:3]:
            if len(groups) <= MOST_BARS:
                axes.annotate(name, (x, y), (5, -3), textcoords="offset points", fontsize=8, color=INK)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=":", label="nothing lost")
    lowest = min(lows, default=0.0)
    axes.set(xlabel="clean accuracy (%)", ylabel=f"{title} accuracy (%)", ylim=(0, 100), xlim=(max(0, lowest - 5), 101.5))
    axes.grid(color=GREY, alpha=0.3, linewidth=0.6)
    legend(figure, axes)
    return figure


@styled()
def confusion(found: Sequence[Verdicts], classes: Sequence[str], title: str) -> Figure:
    """Share of each true class (rows) that is taken for each class (columns), in percent, over the verdicts of all seeds.

    Of more than 20 classes, the 20 weakest, and all others together as a last column.
    """
    counts = np.zeros((len(classes), len(classes)))
    for verdicts in found:
        np.add.at(counts, (verdicts.label, verdicts.predicted), 1)
    with np.errstate(invalid="ignore"):
        rates = 100 * counts / counts.sum(1, keepdims=True)
    names = list(classes)
    if len(classes) > MOST_CLASSES:
        weakest = np.sort(np.argsort(np.nan_to_num(rates.diagonal(), nan=np.inf), kind="stable")[:MOST_CLASSES])
        others = rates[weakest].sum(1) - rates[weakest][:, weakest].sum(1)
        rates, names = np.column_stack([rates[weakest][:, weakest], others]), [classes[k] for k in weakest]
    side = 2.2 + 0.34 * len(names)
    figure = Figure(figsize=(max(4.2, side), max(3.6, side - 0.3)), layout="constrained")
    axes = figure.subplots()
    _heat(axes, rates, BLUE, names, [*names, "other"] if len(names) < len(classes) else names)
    axes.set(xlabel="taken for", ylabel="true class", title=title)
    return figure


def shown_classes(groups: Sequence[Group], key: str) -> tuple[list[str], int]:
    """The classes, the lowest mean over the rows first, 20 at most; and how many are left out."""
    classes = dict.fromkeys(name for group in groups for name in group.classes(key))
    return weakest_first({c: [a for group in groups for a in group.class_values(key, c)] for c in classes})


def weakest_first(found: Mapping[str, Sequence[float]]) -> tuple[list[str], int]:
    """The classes by the mean of their accuracies, 20 at most, those without any last; and how many are left out."""
    classes = sorted(found, key=lambda c: mean(found[c]) if found[c] else 2.0)
    if len(classes) > MOST_CLASSES:
        classes = [c for c in classes if found[c]]
    return classes[:MOST_CLASSES], max(0, len(classes) - MOST_CLASSES)


def _left_out(classes: Sequence[str], hidden: int) -> str:
    return f"the {len(classes)} weakest classes; {hidden} stronger ones are not shown" if hidden else ""


def _mean_and_spread(group: Group, key: str, name: str) -> tuple[float, float]:
    """Mean accuracy of a class over seeds and its standard deviation; for a single run the binomial's, nan without counts."""
    values = group.class_values(key, name)
    if len(values) > 1:
        return mean(values), stdev(values)
    counts = [run.summaries[key].get("counts", {}).get(name, 0) for run in group.runs if key in run.summaries]
    value = values[0] if values else nan
    return value, sqrt(value * (1 - value) / counts[0]) if values and counts and counts[0] else nan


def _name_classes(axes: Axes, names: Sequence[str], places: Any = None) -> None:
    crowded = len(names) > 11 or sum(map(len, names)) > 75
    axes.set_xticks(range(len(names)) if places is None else places, names, rotation=90 if crowded else 0, parse_math=False)


def _accuracy_map(groups: Sequence[Group], key: str, title: str, classes: Sequence[str], hidden: int) -> Figure:
    groups = [group for group in groups if group.classes(key)]
    values = [[100 * mean(v) if (v := group.class_values(key, c)) else nan for c in classes] for group in groups]
    size = min(16, 3.5 + 0.36 * len(classes)), 1.4 + 0.28 * len(groups)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    _heat(axes, np.array(values), BLUE, [group.label for group in groups], classes)
    more = f"; the {len(classes)} weakest classes, {hidden} stronger ones are not shown" if hidden else ""
    axes.set(title=f"{title} accuracy (%){more}")
    return figure


def _heat(axes: Axes, values: NDArray[np.float64], colours: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    """A map of percentages with its numbers written in."""
    axes.imshow(values, cmap=colours, vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value) and value >= 0.5:
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7.5, color=PAPER if value > 60 else INK)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    _name_classes(axes, columns)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
