"""Run records as a table and a picture.

    python -m fairat_lightning.report RUN [RUN ...] [--to FOLDER]

prints the class-wise table of the runs side by side and draws it. Several runs with the same label are seeds of one row:
mean and standard deviation. A label is given as LABEL=RUN, else it is the run folder's name.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from fairat_lightning.record import read_metrics, write, write_json

TITLES = {"clean": "clean", "pgd20": "PGD-20", "cw20": "CW-20"}
COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
)  # Paul Tol's bright scheme, colour-blind safe
Metrics = Mapping[str, Any]


def class_table(runs: Mapping[str, Metrics], title: str | None = None) -> Table:
    """Accuracy in percent per class, average and worst, for each attack of each run; the worst class stands out."""
    table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
    table.add_column("class")
    columns = [(label, name, m[name]) for label, m in runs.items() for name in TITLES if name in m]
    for label, name, _ in columns:
        table.add_column(f"{label}\n{TITLES[name]}" if len(runs) > 1 else TITLES[name], justify="right")
    classes = list(dict.fromkeys(c for _, _, s in columns for c in s["per_class"]))
    shown = classes if len(classes) <= 20 else _weakest(columns, classes)
    for name in shown:
        cells = [_cell(s["per_class"].get(name), name == s["worst_class"]) for _, _, s in columns]
        table.add_row(name, *cells)
    if len(shown) < len(classes):
        table.add_row(f"({len(classes) - len(shown)} stronger classes)", *[""] * len(columns))
    table.add_section()
    table.add_row("average", *[_cell(s["average"], False) for _, _, s in columns])
    table.add_row("worst class", *[_cell(s["worst"], True) for _, _, s in columns])
    return table


def draw_classes(runs: Mapping[str, Metrics], path: Path, attacks: Sequence[str] = tuple(TITLES)) -> None:
    """Bars of the accuracy per class as a PNG at `path`: one group of bars per class, weakest class first."""
    series = [(label, name, m[name]) for label, m in runs.items() for name in attacks if name in m]
    classes = list(series[0][2]["per_class"])
    last = series[-1][2]["per_class"]
    classes.sort(key=lambda c: 2.0 if last.get(c) is None else last[c])
    width = 0.8 / len(series)
    figure, axes = plt.subplots(figsize=(min(40, max(7, 0.32 * len(classes) * len(series))), 4.2), layout="constrained")
    for i, (label, name, summary) in enumerate(series):
        heights = [nan if (a := summary["per_class"].get(c)) is None else 100 * a for c in classes]
        places = [k + (i - (len(series) - 1) / 2) * width for k in range(len(classes))]
        caption = TITLES[name] if len(runs) == 1 else f"{label}, {TITLES[name]}" if len(attacks) > 1 else label
        colour = COLOURS[i % len(COLOURS)]
        average, worst = (nan if summary[k] is None else 100 * summary[k] for k in ("average", "worst"))
        axes.bar(places, heights, width * 0.92, color=colour, label=f"{caption}: average {average:.1f}, worst {worst:.1f}")
        axes.axhline(average, color=colour, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xticks(range(len(classes)), classes, rotation=0 if len(classes) <= 10 else 90)
    axes.set_xlim(-0.6, len(classes) - 0.4)
    axes.set(ylabel="accuracy (%)", ylim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=min(3, len(series)), frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def group_rows(groups: Mapping[str, Sequence[Metrics]]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation over the seeds of each group, for the average and the worst class of each attack."""
    rows = []
    for label, runs in groups.items():
        row: dict[str, Any] = {"label": label, "runs": len(runs)}
        for name in TITLES:
            for figure in ("average", "worst"):
                values = [m[name][figure] for m in runs]
                row[f"{name}_{figure}"] = {
                    "mean": mean(values),
                    "std": stdev(values) if len(values) > 1 else None,
                    "values": values,
                }
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The grouped rows as a Markdown table in percent, mean +- standard deviation."""
    head = ["", "runs", *(f"{TITLES[n]} {f}" for n in TITLES for f in ("average", "worst"))]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row[f"{n}_{f}"] for n in TITLES for f in ("average", "worst")]
        shown = [f"{100 * c['mean']:.1f}" + ("" if c["std"] is None else f" ± {100 * c['std']:.1f}") for c in cells]
        lines.append("| " + " | ".join([row["label"], str(row["runs"]), *shown]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; wrong input is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fairat_lightning.report", description="Compare finished runs class by class."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="[LABEL=]RUN", help="folders of finished runs; one label may name several seeds"
    )
    parser.add_argument("--to", type=Path, help="folder for table.md, table.json and classes.png (default: the last run's)")
    options = parser.parse_args(arguments)
    try:
        groups: dict[str, list[Metrics]] = {}
        for word in options.runs:
            label, found, folder = word.rpartition("=")
            metrics = read_metrics(Path(folder))
            if metrics is None:
                raise ValueError(f"{folder} holds no finished run: there is no metrics.json in it")
            groups.setdefault(label if found else Path(folder).name, []).append(metrics)
        to = options.to or Path(options.runs[-1].rpartition("=")[2])
        to.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    console = Console()
    rows = group_rows(groups)
    write_json(to / "table.json", rows)
    write(to / "table.md", markdown(rows))
    first = {label: runs[0] for label, runs in groups.items()}
    draw_classes(first, to / "comparison.png", attacks=("pgd20",))
    if all(len(runs) == 1 for runs in groups.values()):
        console.print(class_table(first))
    else:
        console.print(markdown(rows), highlight=False)
    console.print(f"[dim]table[/dim] {to / 'table.md'}   [dim]picture[/dim] {to / 'comparison.png'}", soft_wrap=True)


def _weakest(columns: Sequence[tuple[str, str, Any]], classes: Sequence[str]) -> list[str]:
    last = columns[-1][2]["per_class"]
    return sorted(classes, key=lambda c: 2.0 if last.get(c) is None else last[c])[:10]


def _cell(value: float | None, strong: bool) -> str:
    text = "–" if value is None else f"{100 * value:.1f}"
    return f"[bold red]{text}[/bold red]" if strong else text


if __name__ == "__main__":
    main()
