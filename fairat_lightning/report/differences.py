"""The difference of every row to its control with interval and p, as `significance.against` has found it, and each seed's own.

In Markdown and on the page for every robust attack, on the terminal for the main one. In percentage points.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from rich import box
from rich.markup import escape as escape_markup
from rich.table import Table

from fairat_lightning.report.claim import p_value, points, span
from fairat_lightning.report.compare import against_first
from fairat_lightning.report.groups import Report
from fairat_lightning.report.markup import html_head, html_list, html_short, html_table, markdown_text
from fairat_lightning.report.significance import FIGURES, explained

TITLE = "Difference to the control"
CAPTION = "The row minus its control, in percentage points, with the 95 % interval and the p-value of no difference."
SEEDS = "worst class, each seed"
Rows = Sequence[Mapping[str, Any]]
Found = Mapping[str, Any]  # of one figure


def markdown(rows: Rows, report: Report) -> list[str]:
    """The lines of the table and of what its tests can show; none where no row has a control."""
    lines, many = [], _of_seeds(rows, report)
    for label, control, key, figures in _lines(rows, report):
        cells = [", ".join(part for part in (_with_interval(figures[figure]), _p(figures[figure])) if part) for figure in FIGURES]
        text = [markdown_text(word) for word in (label, control, report.heads[key], *cells, *[_seeds(figures["worst"])] * many)]
        lines.append("| " + " | ".join(text) + " |")
    if not lines:
        return []
    heads = ["", "control", "attack", *FIGURES.values(), *[SEEDS] * many]
    notes = [f"- {markdown_text(text)}" for text in explained(report, rows)]
    frame = ["| " + " | ".join(heads) + " |", "|---|---|---|" + "---:|" * (len(FIGURES) + many)]
    return [f"**{TITLE}**", "", *frame, *lines, "", CAPTION, "", *notes, "", "**Findings and notes**", ""]


def html(rows: Rows, report: Report) -> str:
    """A section of the page; empty where no row has a control."""
    lines, many = [], _of_seeds(rows, report)
    for label, control, key, figures in _lines(rows, report):
        cells = "".join(
            (f'<td data-value="{found["difference"]}">' if found["difference"] is not None else "<td>")
            + _points(found)
            + "".join(f'<span class="interval">{escape(text)}</span>' for text in (_interval(found), _p(found)) if text)
            + "</td>"
            for found in (figures[figure] for figure in FIGURES)
        )
        cells += f"<td>{_seeds(figures['worst'], '<br>')}</td>" * many
        lines.append(
            f'<tr><th scope="row">{escape(label)}<span class="interval">to {escape(control)}</span></th>'
            f"<td>{html_short(report.heads[key], report.titles[key])}</td>{cells}</tr>"
        )
    if not lines:
        return ""
    heads = [html_head("Row", "text"), html_head("Attack", "text"), *(html_head(text, "number") for text in FIGURES.values())]
    heads += ['<th scope="col">each seed,<br>worst class</th>'] * many
    sentences = html_list(against_first(report))
    said = f"<details open><summary>In sentences</summary>{sentences}</details>\n" if sentences else ""
    return (
        f'<section id="against">\n<h2>{TITLE}</h2>\n{html_table("against", heads, lines)}<p class="caption">{CAPTION}</p>\n'
        f'<div class="notes"><h3>What the tests can show</h3>{html_list(explained(report, rows))}</div>\n{said}</section>\n'
    )


def terminal(rows: Rows, report: Report) -> Table:
    """The differences under the main attack, within 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold")
    shown.add_column(f"difference to the control, {escape_markup(report.heads[report.main])}", overflow="fold")
    many = _of_seeds(rows, report)
    for head in (*FIGURES.values(), *["seeds,\nworst"] * many):
        shown.add_column(head, justify="right", no_wrap=True)
    for label, control, key, figures in _lines(rows, report):
        if key == report.main:
            parts = [(_points(found), _interval(found), _p(found)) for found in (figures[f] for f in FIGURES)]
            name = f"{escape_markup(label)}\n[dim]to {escape_markup(control)}[/dim]"
            shown.add_row(
                name, *("\n".join(part for part in cell if part) for cell in parts), *[_seeds(figures["worst"], "\n")] * many
            )
    return shown


def _lines(rows: Rows, report: Report) -> Iterator[tuple[str, str, str, Mapping[str, Found]]]:
    """Row, control, attack and figures of each line, the main attack first."""
    for row in rows:
        found = row.get("against", {})
        for key in sorted(report.robust or report.keys, key=lambda key: key != report.main):
            if key in found:
                yield row["label"], found["label"], key, found[key]


def _of_seeds(rows: Rows, report: Report) -> bool:
    """Whether any difference is of several seeds, each with its own."""
    return any(len(figures["worst"]["seeds"]) > 1 for _, _, _, figures in _lines(rows, report))


def _with_interval(found: Found) -> str:
    return _points(found) + (f" ({_interval(found)})" if _interval(found) else "")


def _points(found: Found) -> str:
    return "–" if found["difference"] is None else points(found["difference"])


def _interval(found: Found) -> str:
    return "" if found["low"] is None else span(found["low"], found["high"])


def _p(found: Found) -> str:
    """ "p < .001"; Welch's test is named, and so is a test that could not be done."""
    if found["p"] is None:
        return "not tested"
    return p_value(found["p"]) + (" (Welch)" if found["test"] == "welch" else "")


def _seeds(found: Found, between: str = ", ") -> str:
    """Each seed's own difference; empty for one seed, whose difference is the row's."""
    return between.join(map(points, found["seeds"])) if len(found["seeds"]) > 1 else ""
