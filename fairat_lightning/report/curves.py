"""The figures over something: over time, over the radius of an attack or of a shift; and the images that stay hard."""

from collections.abc import Sequence
from math import nan
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fairat_lightning.record.reader import Hardest
from fairat_lightning.report.figures import MOST_CLASSES
from fairat_lightning.report.runs import Group
from fairat_lightning.report.style import COLOURS, GREY, INK, MARKERS, NARROW, RED, legend, styled

MOST_LINES, MOST_IMAGES = 10, 24
DASHES = ("-", "--", "-.", ":")
WEIGHT, SHARE = "train/class_weight/", "train/augmented_class/"


@styled()
def training_curves(groups: Sequence[Group]) -> Figure:
    """Validation accuracy over the epochs: the robust worst class, robust, and clean; seeds as mean and deviation.

    A dot marks the epoch that was selected, for rows of one run.
    """
    panels = (("val/robust_worst", "robust, worst class"), ("val/robust", "robust"), ("val/clean", "clean"))
    figure = Figure(figsize=(9, 3.6 + 0.1 * len(groups)), layout="constrained")
    grid = figure.subplots(1, 3, sharex=True)
    for axes, (key, title) in zip(grid, panels, strict=True):
        for i, group in enumerate(groups):
            epochs, middle, spread = over_epochs(group, key)
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(epochs, middle, color=colour, linestyle=DASHES[i % len(DASHES)], label=group.label)
            if np.any(spread > 0) and len(groups) <= 8:
                axes.fill_between(epochs, middle - spread, middle + spread, color=colour, alpha=0.15, linewidth=0)
            chosen = group.runs[0].facts.get("selected_epoch", -1)
            if len(group.runs) == 1 and chosen in epochs - 1:
                axes.plot([chosen + 1], middle[epochs - 1 == chosen], "o", color=colour, markersize=5)
        axes.set(title=f"{title} (%)", xlabel="epoch")
        axes.set_ylim(0, 100)
        _tidy(axes)
    legend(figure, grid[0])
    return figure


@styled()
def class_weights(group: Group) -> Figure:
    """The weight of each class in the loss over the epochs (FAAL), mean over seeds; 1 is no preference."""
    figure = Figure(figsize=(NARROW, 3.6), layout="constrained")
    axes = figure.subplots()
    lines = {name: over_epochs(group, WEIGHT + name, scale=1) for name in classes_over_time(group, WEIGHT)}
    _class_lines(axes, {name: (epochs, middle) for name, (epochs, middle, _) in lines.items()}, highest=True)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="epoch", ylabel="class weight", title=group.label)
    axes.set_ylim(bottom=0)
    _tidy(axes)
    figure.legend(loc="outside right upper")
    return figure


@styled()
def hard_share(group: Group) -> Figure:
    """Who is hard over time (FairAT): the share of each class's examples that is augmented, per epoch, mean over seeds.

    Of more than 20 classes, those with the largest share.
    """
    found = {name: over_epochs(group, SHARE + name) for name in classes_over_time(group, SHARE)}
    names = sorted(found, key=lambda name: -float(np.nan_to_num(found[name][1]).mean()))[:MOST_CLASSES]
    names = [name for name in found if name in names]
    last = int(max(found[name][0].max() for name in names))
    values = np.full((len(names), last), nan)
    for i, name in enumerate(names):
        values[i, found[name][0].astype(int) - 1] = found[name][1]
    figure = Figure(figsize=(NARROW, 1.3 + 0.24 * len(names)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap=RED, vmin=0, aspect="auto", interpolation="nearest", extent=(0.5, last + 0.5, len(names), 0))
    axes.set_yticks([k + 0.5 for k in range(len(names))], names, parse_math=False)
    left = f"; {len(found) - len(names)} easier classes are not shown" if len(names) < len(found) else ""
    axes.set(xlabel="epoch", title=f"{group.label}: share of a class that is hard (%){left}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, pad=0.02).outline.set_visible(False)
    return figure


@styled()
def hardest_images(hardest: Hardest, classes: Sequence[str], title: str) -> Figure:
    """The training images that were hard most often, each with its class, its last loss and the number of epochs."""
    count = min(len(hardest.label), MOST_IMAGES)
    columns = min(8, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(max(3.5, 1.06 * columns), 0.4 + 1.42 * lines), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for k in range(count):
        axes, label = grid.flat[k], int(hardest.label[k])
        pixels = hardest.pixels[k].transpose(1, 2, 0)
        axes.imshow(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3], cmap="gray", interpolation="nearest")
        name = classes[label] if 0 <= label < len(classes) else str(label)
        name = name if len(name) <= 12 else name[:11] + "…"
        words = f"{name}\nloss {hardest.loss[k]:.1f}, {int(hardest.times[k])}×"
        axes.set_title(words, fontsize=7, loc="center", parse_math=False)
    return figure


@styled()
def shift_curve(groups: Sequence[Group], key: str, title: str) -> Figure:
    """The lowest expected accuracy over all class distributions within a KL radius of uniform (nats), mean over seeds."""
    figure = Figure(figsize=(NARROW, 3.8), layout="constrained")
    axes = figure.subplots()
    for i, group in enumerate(groups):
        shifts = [s["shift"] for run in group.runs if "shift" in (s := run.summaries.get(key, {}))]
        shifts = [s for s in shifts if s["radius"] == shifts[0]["radius"]]
        if shifts:
            lowest = [100 - 100 * mean(values) for values in zip(*(s["error"] for s in shifts), strict=True)]
            axes.plot(shifts[0]["radius"], lowest, linestyle=DASHES[i % len(DASHES)], label=group.label, **_mark(i))
    axes.set(xlabel="how far the class distribution may move from uniform (KL, nats)", ylabel=f"worst-case {title} accuracy (%)")
    axes.set_ylim(0, 100)
    _tidy(axes)
    legend(figure, axes)
    return figure


@styled()
def eps_curve(group: Group, sweep: str) -> Figure:
    """Robust accuracy of each class over every eps of a sweep, and their average; mean over the seeds that met the eps."""
    found = points(group, sweep)
    eps, keys = list(found), [found[value] for value in found]

    def percent(values: Sequence[float | None]) -> float:
        return 100 * mean(present) if (present := [v for v in values if v is not None]) else nan

    names = list(dict.fromkeys(name for key in keys for name in group.classes(key)))
    lines = {name: (np.array(eps), np.array([percent(group.class_values(key, name)) for key in keys])) for name in names}
    figure = Figure(figsize=(NARROW, 3.7), layout="constrained")
    axes = figure.subplots()
    _class_lines(axes, lines, highest=False)
    axes.plot(
        eps, [percent(group.values(key, "average")) for key in keys], color=INK, linestyle="--", linewidth=2.2, label="average"
    )
    norm = sweep.partition("@")[0]
    axes.set(xlabel=f"eps ({norm})" if norm else "eps", ylabel="robust accuracy (%)", title=group.label)
    axes.set_ylim(0, 100)
    axes.grid(color=GREY, alpha=0.3, linewidth=0.6)
    figure.legend(loc="outside right upper")
    return figure


def points(group: Group, sweep: str) -> dict[float, str]:
    """The keys of a sweep by eps, in their order: every eps that any seed met."""
    return dict(sorted((eps, key) for run in group.runs for eps, key in run.curves.get(sweep, {}).items()))


def over_epochs(group: Group, key: str, scale: float = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Epochs from 1, mean and sample deviation over the seeds of a history's column, (E,) each, for the epochs that have it."""
    found: dict[int, list[float]] = {}
    for run in group.runs:
        for row in run.history:
            if key in row and "epoch" in row:
                found.setdefault(int(row["epoch"]) + 1, []).append(scale * row[key])
    epochs = sorted(found)
    middle = np.array([mean(found[e]) for e in epochs])
    return np.array(epochs), middle, np.array([stdev(v) if len(v := found[e]) > 1 else 0.0 for e in epochs])


def classes_over_time(group: Group, prefix: str) -> list[str]:
    """The classes for which a history has a column `prefix`<class>."""
    keys = dict.fromkeys(key for run in group.runs for row in run.history for key in row if key.startswith(prefix))
    return [key.removeprefix(prefix) for key in keys]


def _class_lines(axes: Axes, lines: dict[str, tuple[np.ndarray, np.ndarray]], highest: bool) -> None:
    """A line a class with figures; of more than 10 the ones highest (or lowest) on the whole are named, the others are grey."""
    lines = {name: line for name, line in lines.items() if not np.isnan(line[1]).all()}
    ranked = sorted(lines, key=lambda name: float(np.nanmean(lines[name][1])) * (-1 if highest else 1))
    chosen = set(ranked[:MOST_LINES])
    for name in ranked[MOST_LINES:]:
        axes.plot(*lines[name], color=GREY, linewidth=0.6, alpha=0.6)
    for i, name in enumerate(name for name in lines if name in chosen):
        axes.plot(*lines[name], label=name, **_mark(i), linestyle=DASHES[(i // len(COLOURS)) % len(DASHES)])
    if len(lines) > MOST_LINES:
        left = len(lines) - MOST_LINES
        axes.plot([], [], color=GREY, linewidth=0.6, label=f"{left} other class{'es' * (left > 1)}")
    _tidy(axes)


def _mark(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}


def _tidy(axes: Axes) -> None:
    axes.grid(color=GREY, alpha=0.3, linewidth=0.6)
    if axes.get_xlabel() == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
