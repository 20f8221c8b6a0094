"""The tables of a sweep over eps, every eps in one: for each row the average, the worst class and, on the page, every class."""

from collections.abc import Sequence
from html import escape

from rich import box
from rich.markup import escape as escape_markup
from rich.table import Table

from fairat_lightning.report.compare import Cell, cell, mean_of
from fairat_lightning.report.curves import points
from fairat_lightning.report.groups import Report
from fairat_lightning.report.markup import html_cell, html_head, html_table, interval, markdown_text, spread
from fairat_lightning.report.runs import LAST, Group

FIGURES = {"average": "average", "worst": "worst class"}
MOST_ROWS = 3  # that fit a terminal


def caption(sweep: str) -> str:
    norm = sweep.removesuffix(LAST)
    return f"PGD-20 accuracy in percent at every eps of the sweep{f', {norm}' if norm else ''}" + (
        ", last epoch." if sweep.endswith(LAST) else "."
    )


def markdown(report: Report) -> list[str]:
    """The lines of a table for each sweep; none without one."""
    lines = []
    for sweep, eps, groups in _sweeps(report):
        lines += ["| | | " + " | ".join(f"eps {value:.4g}" for value in eps) + " |", "|---|---|" + "---:|" * len(eps)]
        for group in groups:
            for figure, words in FIGURES.items():
                cells = (f"{spread(found)} {interval(found)}".strip() for found in _cells(group, sweep, eps, figure))
                lines.append("| " + " | ".join([markdown_text(group.label), words, *cells]) + " |")
        lines += ["", markdown_text(caption(sweep)), ""]
    return lines


def html(report: Report) -> str:
    """The tables below the curves."""
    parts = []
    for k, (sweep, eps, groups) in enumerate(_sweeps(report)):
        heads = [html_head("Row", "text"), html_head("Figure", "text"), *(html_head(f"{v:.4g}", "number", "eps") for v in eps)]
        lines, single = [], []
        for group in groups:
            first = f'<th scope="row">{escape(group.label)}</th>'
            for figure, words in FIGURES.items():
                cells = "".join(html_cell(found) for found in _cells(group, sweep, eps, figure))
                lines.append(f"<tr>{first}<td>{words}</td>{cells}</tr>")
            found, keys = mean_of(group), points(group, sweep)
            for name in dict.fromkeys(name for key in keys.values() for name in group.classes(key)):
                rates = [found[keys[v]]["per_class"].get(name) if keys.get(v) in found else None for v in eps]
                cells = "".join(html_cell({"mean": rate, "std": None}) for rate in rates)
                single.append(f"<tr>{first}<td>{escape(name)}</td>{cells}</tr>")
        parts.append(html_table(f"sweep-{k}", heads, lines) + f'<p class="caption">{escape(caption(sweep))}</p>')
        inside = html_table(f"sweep-classes-{k}", [heads[0], html_head("Class", "text"), *heads[2:]], single)
        parts.append(f"<details><summary>PGD-20 accuracy of every class at every eps, in percent</summary>{inside}</details>\n")
    return "".join(parts)


def terminal(report: Report) -> list[Table]:
    """A line an eps, average / worst class of the first rows."""
    found = []
    for sweep, eps, groups in _sweeps(report):
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", caption=None)
        table.add_column(f"PGD-20, {sweep.replace(LAST, ', last epoch')}\neps" if sweep else "PGD-20\neps", justify="right")
        for group in groups[:MOST_ROWS]:
            table.add_column(f"{escape_markup(group.label)}\naverage / worst class", justify="right")
        columns = [[_cells(group, sweep, eps, figure) for figure in FIGURES] for group in groups[:MOST_ROWS]]
        for k, value in enumerate(eps):
            table.add_row(f"{value:.4g}", *(" / ".join(spread(cells[k]) for cells in column) for column in columns))
        found.append(table)
    return found


def _sweeps(report: Report) -> list[tuple[str, list[float], list[Group]]]:
    """Each sweep with every eps of it that any row met, and the rows that have it."""
    found = []
    for sweep in report.sweeps:
        groups = [group for group in report.groups if points(group, sweep)]
        found.append((sweep, sorted({eps for group in groups for eps in points(group, sweep)}), groups))
    return found


def _cells(group: Group, sweep: str, eps: Sequence[float], figure: str) -> list[Cell | None]:
    keys = points(group, sweep)
    return [cell(group, keys[value], figure) if value in keys else None for value in eps]
