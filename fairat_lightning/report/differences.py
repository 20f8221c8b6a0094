"""The difference of every row to its control with interval and p, as `significance.against` has found it, and each seed's own.

In Markdown and on the page for every attack and clean, on the terminal for the main attack. In percentage points.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from rich import box
from rich.markup import escape as escape_markup
from rich.table import Table

from fairat_lightning import bootstrap
from fairat_lightning.report.claim import p_value, points, span
from fairat_lightning.report.compare import against_controls
from fairat_lightning.report.groups import Report
from fairat_lightning.report.markup import html_head, html_list, html_short, html_table, markdown_text
from fairat_lightning.report.significance import FIGURES, comparisons, shared_seed

TITLE = "Difference to the control"
CAPTION = "The row minus its control, in percentage points, with the 95 % interval and the p-value of no difference."
SEEDS = "worst class, each seed"
PAIRED = (
    f"Paired test: the test images are drawn again {bootstrap.DRAWS:,} times within each class, the same for both rows. "
    "The interval and p speak of these trained networks on other images of the same kind. They say nothing about other "
    "trainings. Where all classes of one row are about equally weak and the other row has one that is clearly weakest, the "
    "interval of the worst class lies too low for the even row: its gain is then understated."
)
PAIRED_SEEDS = (
    "Of rows with two seeds, the paired test compares each seed of a row with the same seed of its control on the same images. "
    "The difference of each seed is also shown: two different results show that the training alone changes the result, and two "
    "similar results do not show that a third seed would give the same."
)
WELCH = (
    "Welch's t-test, for three seeds or more of each row, and for two where their images cannot be paired: the interval and p "
    "speak of other trainings with the same settings, evaluated on these test images. With two seeds of each row it finds only "
    "very large differences."
)
AMONG = (
    "Where an evaluation has all images of some classes and only a sample of the others, the worst class and the worst 10 % "
    "are sought among the classes with all images."
)
FEW = "With ten classes or fewer, the worst 10 % is the worst class."
MANY = "Each p is of one comparison alone: of twenty comparisons without a true difference, one is expected to have p < .05."
Rows = Sequence[Mapping[str, Any]]
Found = Mapping[str, Any]  # of one figure


def markdown(rows: Rows, report: Report) -> list[str]:
    """The lines of the table and of what its tests can show; none where no row has a control."""
    lines, many = [], _of_seeds(rows)
    for label, control, key, figures in entries(rows):
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
    lines, many = [], _of_seeds(rows)
    for label, control, key, figures in entries(rows):
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
    sentences = html_list(against_controls(report))
    said = f"<details open><summary>In sentences</summary>{sentences}</details>\n" if sentences else ""
    return (
        f'<section id="against">\n<h2>{TITLE}</h2>\n{html_table("against", heads, lines)}<p class="caption">{CAPTION}</p>\n'
        f'<div class="notes"><h3>What the tests can show</h3>{html_list(explained(report, rows))}</div>\n{said}</section>\n'
    )


def terminal(rows: Rows, report: Report) -> Table:
    """The differences under the main attack, within 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold")
    shown.add_column(f"difference to the control, {escape_markup(report.heads[report.main])}", overflow="fold")
    many = _of_seeds(rows)
    for head in (*FIGURES.values(), *["seeds,\nworst"] * many):
        shown.add_column(head, justify="right", no_wrap=True)
    for label, control, key, figures in entries(rows):
        if key == report.main:
            parts = [(_points(found), _interval(found), _p(found)) for found in (figures[f] for f in FIGURES)]
            name = f"{escape_markup(label)}\n[dim]to {escape_markup(control)}[/dim]"
            shown.add_row(
                name, *("\n".join(part for part in cell if part) for cell in parts), *[_seeds(figures["worst"], "\n")] * many
            )
    return shown


def explained(report: Report, rows: Rows) -> list[str]:
    """What the tests in `rows` can show and cannot show, in plain words; empty where no row has a control."""
    cells = [cell for _, _, _, figures in entries(rows) for cell in figures.values()]
    if not cells:
        return []
    tests = {cell["test"] for cell in cells}
    seeds = any(cell["test"] == "paired" and len(cell["seeds"]) > 1 for cell in cells)
    runs = [run for group in report.groups for run in group.runs]
    summaries = [s for run in runs for key, s in run.summaries.items() if key in report.keys]
    said = [("paired" in tests, PAIRED), (seeds, PAIRED_SEEDS), ("welch" in tests, WELCH)]
    said += [(True, text) for text in [*_in_common(rows, report), *not_tested(rows, report)]]
    said += [
        (any("worst_of" in s for s in summaries), AMONG),
        (any(len(s["per_class"]) <= 10 for s in summaries), FEW),
    ]
    found = [text for holds, text in [*said, (sum(cell["test"] is not None for cell in cells) > len(FIGURES), MANY)] if holds]
    return [text.replace("test images", report.images) for text in found]


def not_tested(rows: Rows, report: Report) -> list[str]:
    """A sentence for each row that was not tested against its control, and each reason why."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for label, control, key, figures in entries(rows):
        cells = [cell for cell in figures.values() if cell["test"] is None and cell["difference"] is not None]
        for why in dict.fromkeys(cell["why"] for cell in cells):
            found.setdefault((label, control, why), []).append(report.titles[key])
    return [f"Not tested: {a} against {b} under {', '.join(attacks)}; {why}." for (a, b, why), attacks in found.items()]


def entries(rows: Rows) -> Iterator[tuple[str, str, str, Mapping[str, Found]]]:
    """Row, control, attack and FIGURES of every comparison in the rows, of each the main attack first."""
    for row in rows:
        for found in row.get("against", ()):
            yield from ((row["label"], found["label"], key, figures) for key, figures in found.items() if key != "label")


def _of_seeds(rows: Rows) -> bool:
    """Whether any difference is of several seeds, each with its own."""
    return any(len(figures["worst"]["seeds"]) > 1 for _, _, _, figures in entries(rows))


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


def _in_common(rows: Rows, report: Report) -> list[str]:
    """A sentence for each row of one seed that is compared with a row of several."""
    tested = {(label, control) for label, control, _, figures in entries(rows) if figures["worst"]["difference"] is not None}
    return [
        f"{group.label} and {base.label} are compared in the one seed that both have, {seed}."
        for group, base in comparisons(report)
        if (group.label, base.label) in tested and (seed := shared_seed(group, base)) is not None
    ]
