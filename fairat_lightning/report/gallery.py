"""Which figures a report has, with the caption of each."""

from collections.abc import Iterator
from re import sub
from typing import NamedTuple

from matplotlib.figure import Figure

from fairat_lightning.report import curves, figures
from fairat_lightning.report.columns import CUT
from fairat_lightning.report.groups import Report
from fairat_lightning.report.runs import LAST, Group

MOST_ROWS = 12  # that get a figure of their own for what is shown row by row


class Picture(NamedTuple):
    """A figure, the name of its files, its section of the page, and its caption."""

    name: str
    section: str
    caption: str
    figure: Figure


def pictures(report: Report) -> list[Picture]:
    """Every figure for which the runs hold the data, in the order of the page."""
    return [*_by_class(report), *_under_shift(report), *_over_time(report)]


def _by_class(report: Report) -> Iterator[Picture]:
    key, title, groups = report.main, report.titles[report.main], report.groups
    head = report.heads[key].removesuffix(CUT)
    text = f"Accuracy per class under {title}, higher is better"
    summaries = [run.summaries[key] for group in groups for run in group.runs if key in run.summaries]
    of = {True: "over seeds", False: "of the sampling of the images"}
    shown = [many for many in report.kinds if many or any("counts" in s for s in summaries)]
    kinds = [of[many] + (" for a row of one run" if not many and report.seeds else "") for many in shown]
    whiskers = f"; whiskers are one standard deviation {' or '.join(kinds)}" if kinds and len(groups) <= figures.MOST_BARS else ""
    yield Picture(
        "class_accuracies",
        "classes",
        f"{text}{whiskers}.",
        figures.class_accuracies(groups, key, head),
    )
    if key != "clean" and any("clean" in run.summaries for group in groups for run in group.runs):
        yield Picture(
            "clean_against_robust",
            "classes",
            f"Each class: clean accuracy against {title} accuracy. The distance below the dotted line is what the attack costs.",
            figures.clean_against_robust(groups, key, head),
        )
    for name, group in _named(report, "confusion"):
        found = [run.verdicts[key] for run in group.runs if key in run.verdicts]
        if found:
            over = f" over {len(found)} seeds" if len(found) > 1 else ""
            yield Picture(
                name,
                "confusion",
                f"{group.label}: share (%) of each true class that is predicted as each class under {title}{over}.",
                figures.confusion(found, group.classes(key), group.label),
            )


def _under_shift(report: Report) -> Iterator[Picture]:
    key, title = report.main, report.titles[report.main]
    if any("shift" in run.summaries.get(key, {}) for group in report.groups for run in group.runs):
        yield Picture(
            "shift",
            "shift",
            f"The lowest expected accuracy under {title} when classes may become more or less frequent: at 0 it is the average, "
            "far to the right the accuracy of the worst class.",
            curves.shift_curve(report.groups, key, report.heads[key].removesuffix(CUT)),
        )
    for sweep in report.sweeps:
        for name, group in _named(report, "eps"):
            if curves.points(group, sweep):
                where = sweep.replace(LAST, ", last epoch")
                more = f" ({where})" if len(report.sweeps) > 1 else ""
                text = f"{group.label}: robust accuracy of each class as the attack's eps grows{more}."
                file = name if sweep == report.sweeps[0] else f"{name}_{sweep.replace('@', '_')}"
                yield Picture(file, "eps", text, curves.eps_curve(group, sweep))


def _over_time(report: Report) -> Iterator[Picture]:
    trained = [group for group in report.groups if any("val/robust" in row for run in group.runs for row in run.history)]
    if trained:
        yield Picture(
            "training",
            "training",
            "Validation accuracy over the epochs: robust worst class, robust average, clean."
            + (" Bands are one standard deviation over seeds." if report.seeds else "")
            + (" A dot is the epoch that was kept." if 1 in map(len, (g.runs for g in trained)) else ""),
            curves.training_curves(trained),
        )
    for name, group in _named(report, "class_weights"):
        if curves.classes_over_time(group, curves.WEIGHT):
            text = f"{group.label}: the weight that FAAL gives each class, over the epochs; 1 means no preference."
            yield Picture(name, "training", text, curves.class_weights(group))
    for name, group in _named(report, "hard"):
        if curves.classes_over_time(group, curves.SHARE):
            text = f"{group.label}: the share of each class's examples that are hard, and that FairAT augments, over the epochs."
            yield Picture(name, "training", text, curves.hard_share(group))
    for name, group in _named(report, "hardest"):
        run = next((run for run in group.runs if run.hardest is not None and len(run.hardest.label)), None)
        if run is not None and run.hardest is not None:
            classes = max((list(s["per_class"]) for s in run.summaries.values()), key=len)
            seed = f", seed {run.facts['seed']}" if len(group.runs) > 1 and "seed" in run.facts else ""
            text = f"{group.label}{seed}: the hardest training images, each with class, loss and the epochs in which it was hard."
            yield Picture(name, "training", text, curves.hardest_images(run.hardest, classes, group.label + seed))


def _named(report: Report, kind: str) -> Iterator[tuple[str, Group]]:
    """The first rows, each with a file name of its own."""
    for k, group in enumerate(report.groups[:MOST_ROWS], 1):
        words = sub(r"[^a-z0-9.]+", "_", group.label.lower()).strip("_.")[:40]
        yield f"{kind}_{k}_{words}".rstrip("_"), group
