"""Run records as a table and a picture.

    python -m fairat_lightning.report LABEL=RUN [LABEL=RUN ...] --to FOLDER

prints the runs side by side, class by class if they are two, and writes a table, a record and a picture. Runs with the same
label are seeds of one row: mean and standard deviation. Without a label, the run folder's name is one.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich import box
from rich.console import Console
from rich.markup import escape
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
FIGURES = [(name, figure) for name in TITLES for figure in ("average", "worst")]
Metrics = Mapping[str, Any]


def class_table(runs: Mapping[str, Metrics]) -> Table:
    """Accuracy in percent per class, average and worst, for each attack of each run; the worst class stands out."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("class")
    columns = [(label, name, m[name]) for label, m in runs.items() for name in TITLES if name in m]
    for label, name, _ in columns:
        table.add_column(f"{escape(label)}\n{TITLES[name]}" if len(runs) > 1 else TITLES[name], justify="right")
    classes = list(dict.fromkeys(c for _, _, s in columns for c in s["per_class"]))
    shown = classes if len(classes) <= 20 else _weakest(columns, classes)
    for name in shown:
        cells = [_cell(s["per_class"].get(name), name == s["worst_class"]) for _, _, s in columns]
        table.add_row(escape(name), *cells)
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
    # A "$" in a name is a "$", not mathematics.
    axes.set_xticks(range(len(classes)), classes, rotation=0 if len(classes) <= 10 else 90, parse_math=False)
    axes.set_xlim(-0.6, len(classes) - 0.4)
    what = f"{TITLES[series[0][1]]} accuracy (%)" if len({name for _, name, _ in series}) == 1 else "accuracy (%)"
    axes.set(ylabel=what, ylim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    longest = max(len(text) for text in axes.get_legend_handles_labels()[1])
    legend = figure.legend(loc="outside upper left", ncols=max(1, min(3, 100 // longest)), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Average and worst-class PGD-20 accuracy of each row, with one standard deviation over seeds, as a PNG at `path`."""
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    places = range(len(rows))
    for colour, key in zip(COLOURS, ("worst", "average"), strict=False):
        cells = [row[f"pgd20_{key}"] for row in rows]
        values, spreads = [nan if c["mean"] is None else 100 * c["mean"] for c in cells], [100 * (c["std"] or 0) for c in cells]
        name = "worst class" if key == "worst" else "average"
        axes.errorbar(values, places, xerr=spreads, fmt="o", color=colour, capsize=3, label=name)
    axes.set_yticks(places, [row["label"] for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel="PGD-20 accuracy (%), mean and standard deviation over seeds")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def mean_of(runs: Sequence[Metrics]) -> dict[str, Any]:
    """The metrics of several seeds as one: every figure the mean over the runs that have it; `worst` is the mean of the worst."""

    def over(values: Iterable[float | None]) -> float | None:
        present = [v for v in values if v is not None]
        return mean(present) if present else None

    result = {}
    for name in [n for n in TITLES if all(n in m for m in runs)]:
        classes = runs[0][name]["per_class"]
        per_class = {c: over(m[name]["per_class"].get(c) for m in runs) for c in classes}
        present = {c: a for c, a in per_class.items() if a is not None}
        result[name] = {
            "average": over(m[name]["average"] for m in runs),
            "worst": over(m[name]["worst"] for m in runs),
            "worst_class": min(present, key=present.__getitem__, default=None),
            "per_class": per_class,
        }
    return result


def group_rows(groups: Mapping[str, Sequence[Metrics]]) -> list[dict[str, Any]]:
    """For each group of seeds the mean, sample standard deviation and values of the average and the worst, per attack."""
    rows = []
    for label, runs in groups.items():
        row: dict[str, Any] = {"label": label, "runs": len(runs)}
        for name, figure in FIGURES:
            values = [m[name][figure] for m in runs]
            present = [v for v in values if v is not None]
            row[f"{name}_{figure}"] = {
                "mean": mean(present) if present else None,
                "std": stdev(present) if len(present) > 1 else None,
                "values": values,
            }
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The grouped rows as a Markdown table in percent, mean ± standard deviation over seeds."""
    head = ["", "runs", *(f"{TITLES[name]} {figure}" for name, figure in FIGURES)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [_spread(row[f"{name}_{figure}"]) for name, figure in FIGURES]
        lines.append("| " + " | ".join([row["label"], str(row["runs"]), *cells]) + " |")
    return "\n".join(lines) + "\n"


def row_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The grouped rows for the terminal, without the clean worst class: six figures would not fit 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("percent, mean ± std")
    table.add_column("runs", justify="right")
    shown = [("clean", "average"), ("pgd20", "average"), ("pgd20", "worst"), ("cw20", "worst")]
    for name, figure in shown:
        table.add_column(f"{TITLES[name]}\n{figure}", justify="right", no_wrap=True)
    for row in rows:
        cells = [_spread(row[f"{name}_{figure}"]) for name, figure in shown]
        table.add_row(escape(row["label"]), str(row["runs"]), *cells)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; wrong input is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m fairat_lightning.report", description="Compare finished runs class by class."
    )
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]RUN", help="folders of finished runs; runs of one label are seeds")
    parser.add_argument("--to", type=Path, required=True, help="folder for table.md, table.json and comparison.png")
    options = parser.parse_args(arguments)
    groups: dict[str, list[Metrics]] = {}
    records: list[dict[str, Any]] = []
    try:
        for word in options.runs:
            label, found, folder = word.rpartition("=")
            metrics = read_metrics(Path(folder))
            if metrics is None:
                raise ValueError(f"{folder} holds no finished run: there is no metrics.json in it")
            label = label if found else Path(folder).name
            groups.setdefault(label, []).append(metrics)
            records.append({"label": label, **json.loads((Path(folder) / "run.json").read_text())})
        options.to.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    rows = group_rows(groups)
    write_json(options.to / "table.json", {"rows": rows, **_shared(records)})
    write(options.to / "table.md", markdown(rows))
    means = {label: mean_of(runs) for label, runs in groups.items()}
    if len(groups) <= 4:
        draw_classes(means, options.to / "comparison.png", attacks=("pgd20",))
    else:
        draw_rows(rows, options.to / "comparison.png")
    console = Console()
    console.print(class_table(means) if len(groups) <= 2 else row_table(rows))
    for name, what in (("table.md", "table"), ("table.json", "record"), ("comparison.png", "picture")):
        console.print(f"[dim]{what:8}[/dim] {options.to / name}", soft_wrap=True, highlight=False)


def _shared(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run records with what they all have in common (versions, hardware, revision, as a rule) said once."""
    common = {key: value for key, value in records[0].items() if all(r.get(key) == value for r in records)}
    return {"common": common, "runs": [{k: v for k, v in r.items() if k not in common} for r in records]}


def _weakest(columns: Sequence[tuple[str, str, Any]], classes: Sequence[str]) -> list[str]:
    last = columns[-1][2]["per_class"]
    return sorted(classes, key=lambda c: 2.0 if last.get(c) is None else last[c])[:10]


def _cell(value: float | None, strong: bool) -> str:
    text = "–" if value is None else f"{100 * value:.1f}"
    return f"[bold red]{text}[/bold red]" if strong else text


def _spread(cell: Mapping[str, Any]) -> str:
    if cell["mean"] is None:
        return "–"
    return f"{100 * cell['mean']:.1f}" + ("" if cell["std"] is None else f" ± {100 * cell['std']:.1f}")


if __name__ == "__main__":
    main()
