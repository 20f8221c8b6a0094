"""A report on the terminal, within 80 columns."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fairat_lightning.record.attack_titles import TITLES
from fairat_lightning.report import columns, compare, differences, published, sweeps, tables
from fairat_lightning.report.gallery import Picture
from fairat_lightning.report.groups import Report
from fairat_lightning.report.markup import spread
from fairat_lightning.report.tables import Row

Metrics = Mapping[str, Any]
SHOWN = 10  # of more than 20 classes, the weakest
MOST_SENTENCES = 6
HEAD = 11  # letters of a column's head in a line


def class_table(
    runs: Mapping[str, Metrics], keys: Sequence[str] = ("clean", "pgd20", "cw20"), titles: Mapping[str, str] = TITLES
) -> Table:
    """Accuracy in percent per class, average and worst, for each attack of each run; the worst class stands out."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("class")
    columns = [(label, name, m[name]) for label, m in runs.items() for name in keys if name in m]
    for label, name, _ in columns:
        title = escape(titles.get(name, name))
        table.add_column(f"{escape(label)}\n{title}" if len(runs) > 1 else title, justify="right", overflow="fold")
    classes = list(dict.fromkeys(c for _, _, s in columns for c in s["per_class"]))
    shown = classes if len(classes) <= 20 else _weakest(columns[-1][2]["per_class"], classes)
    for name in shown:
        cells = [_cell(s["per_class"].get(name), name == s["worst_class"]) for _, _, s in columns]
        table.add_row(escape(name), *cells)
    if len(shown) < len(classes):
        table.add_row(f"({len(classes) - len(shown)} stronger classes)", *[""] * len(columns))
    table.add_section()
    table.add_row("average", *[_cell(s["average"], False) for _, _, s in columns])
    table.add_row("worst class", *[_cell(s["worst"], True) for _, _, s in columns])
    return table


def row_table(rows: Sequence[Row], report: Report) -> Table:
    """Four columns at most, mean ± standard deviation: clean average, the main attack, the worst class of one more."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("percent" + (", mean ± std" if any(row["runs"] > 1 for row in rows) else ""), overflow="fold")
    table.add_column("runs", justify="right")
    covered = {key: sum(bool(group.classes(key)) for group in report.groups) for key in report.robust if key != report.main}
    others = [key for key, count in covered.items() if count == max(covered.values())]
    shown = [("clean", "average")] if "clean" in report.keys and report.main != "clean" else []
    shown += [(report.main, "average"), (report.main, report.lowest), *((key, report.lowest) for key in others[-1:])]
    for name, figure in shown:
        table.add_column(f"{escape(fill(report.heads[name], HEAD))}\n{tables.HEADS[figure]}", justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for name, figure in shown:
            cell = row.get(f"{name}_{figure}")
            cells.append(f"[bold]{spread(cell)}[/bold]" if cell and cell.get("best") else spread(cell))
        table.add_row(escape(row["label"]), str(row["runs"]), *cells)
    return table


def _narrow(report: Report) -> list[str]:
    """The three attacks for which two rows of classes fit a terminal: clean, the main one, and the first other.

    A sweep has a table of its own.
    """
    first = [key for key in report.keys if key in ("clean", report.main)]
    chosen = [*first, *(key for key in report.keys if key not in (*first, *report.swept))][:3]
    return [key for key in report.keys if key in chosen]


def show(
    report: Report, rows: Sequence[dict[str, Any]], to: Path, made: Sequence[Picture], lines: Sequence[published.Beside] = ()
) -> None:
    """Print the table, what it finds, where its files are, and at the end the first finding and the page."""
    console = Console()
    for text in tables.failures(report):
        console.print(f"FAILED CHECK {text}", style="bold red", markup=False, highlight=False)
    means = {group.label: compare.mean_of(group) for group in report.groups}
    few = len(report.groups) <= 2
    console.print(class_table(means, _narrow(report), report.heads) if few else row_table(rows, report))
    for table in sweeps.terminal(report):
        console.print(table)
    shown = columns.explained(report.titles, report.heads, _narrow(report))
    first, *others = compare.headline(report)
    for text in (*shown, *others, *compare.against_controls(report)[:MOST_SENTENCES], *report.notes):
        console.print(text, markup=False, highlight=False)
    if (found := differences.terminal(rows, report)).row_count:
        console.print(found)
    for text in differences.explained(report, rows):
        console.print(text, style="dim", markup=False, highlight=False)
    if (beside := published.terminal(lines)).row_count:
        console.print(beside)
    console.print()
    files = ("table.md", "table.csv", "table.tex", "table.json", "comparison.png")
    paths = [(what, str(to / name)) for what, name in zip(("table", "", "", "record", "picture"), files, strict=True)]
    paths.append(("figures", f"{to / 'figures'} ({len(made)}, each as PNG and PDF)"))
    for what, path in paths:
        _path(console, what, path)
    console.print()
    console.print(first, style="bold", markup=False, highlight=False)
    _path(console, "page", str(to / "index.html"))


def _path(console: Console, what: str, path: str) -> None:
    console.print(f"[dim]{what:8}[/dim] ", end="")
    console.print(path, markup=False, soft_wrap=True, highlight=False)


def _weakest(accuracy: Mapping[str, float | None], classes: Sequence[str]) -> list[str]:
    return sorted(classes, key=lambda c: 2.0 if (a := accuracy.get(c)) is None else a)[:SHOWN]


def _cell(value: float | None, strong: bool) -> str:
    text = "–" if value is None else f"{100 * value:.1f}"
    return f"[bold red]{text}[/bold red]" if strong else text


class Comparison:
    """Two results on the same images, class by class: `repr` is the table, `to_dict()` gives the tested differences."""

    def __init__(self, found: Any, rows: Sequence[dict[str, Any]]):
        self.report, self.rows = found, rows

    def to_dict(self) -> dict[str, Any]:
        """The "difference" b minus a in "average" and "worst", in [0,1], "low", "high" and "p", for each attack and "clean"."""
        return {key: figures for _, _, key, figures in differences.entries(self.rows)}

    def __repr__(self) -> str:
        shown = io.StringIO()
        console = Console(file=shown, width=100, color_system=None, force_jupyter=False)
        console.print(
            class_table({g.label: compare.mean_of(g) for g in self.report.groups}, self.report.keys, self.report.titles)
        )
        console.print(differences.terminal(self.rows, self.report))
        lines = [line.rstrip() for line in shown.getvalue().splitlines() if line.strip()]
        return "\n".join([*lines, *self.report.notes])
