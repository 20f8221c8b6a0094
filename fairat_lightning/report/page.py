"""The whole report as one HTML page that loads nothing: styles, script and figures are inside, all text from files is escaped.

Its policy forbids every request and every script but its own, so that not even an unescaped label could run.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from statistics import mean
from typing import Any

from fairat_lightning.report import compare, differences, published, style, sweeps, tables
from fairat_lightning.report.columns import eps_text
from fairat_lightning.report.gallery import Picture
from fairat_lightning.report.groups import LOWEST, Report
from fairat_lightning.report.markup import html_cell, html_head, html_list, html_short, html_table
from fairat_lightning.report.measured import images as images_of
from fairat_lightning.report.runs import LAYOUT

SECTIONS = {
    "classes": "Class by class",
    "confusion": "What is confused with what",
    "shift": "If the class distribution shifts",
    "eps": "As the attack grows",
    "training": "Training",
}
VERDICTS = {True: ("yes", "passed"), False: ("no", "FAILED"), None: ("open", "not run")}
NOT_SHOWN = ("label", "started", "resumed", "suite", "threat", *LAYOUT)


def page(
    report: Report, rows: Sequence[Mapping[str, Any]], pictures: Sequence[Picture], lines: Sequence[published.Beside] = ()
) -> str:
    """The HTML of the report, with our figures beside the published ones where there are `lines`."""
    rules, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = "Robust accuracy, class by class"
    sections = {name: _section(report, pictures, name) for name in SECTIONS}
    tested = differences.html(rows, report)
    links = [
        ("table", "Table"),
        *([("against", "Difference")] if tested else []),
        *([("published", "Published")] if lines else []),
        *((n, SECTIONS[n]) for n, text in sections.items() if text),
        ("runs", "Runs"),
        ("reading", "Reading"),
    ]
    findings = "".join(f'<p class="lead">{escape(text)}</p>\n' for text in compare.headline(report))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}: {escape(", ".join(group.label for group in report.groups[:3]))}</title>
<style>
{rules}</style>
</head>
<body>
<main>
{_failed(report)}<header>
<div><h1>{title}</h1>
<p>{escape(_about(report))}</p></div>
<button id="theme" type="button" aria-label="Switch between light and dark" hidden>Dark</button>
</header>
{findings}<nav aria-label="Sections">{"".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in links)}</nav>
<section id="table">
<h2>Table</h2>
{_tables(report, rows)}{_notes(report)}</section>
{tested}{published.html(lines)}{"".join(sections.values())}{_runs(report)}
<section id="reading">
<h2>How to read this</h2>
{"".join(f"<p>{text}</p>" for text in _reading(report, sections))}
</section>
</main>
<script>{script}</script>
</body>
</html>
"""


def _section(report: Report, pictures: Sequence[Picture], name: str) -> str:
    here = [picture for picture in pictures if picture.section == name]
    if not here:
        return ""
    drawn = "\n".join(
        f'<figure><div class="scroll" tabindex="0">{style.svg(p.figure, p.name, p.caption)}</div>'
        f"<figcaption>{escape(p.caption)}</figcaption></figure>"
        for p in here
    )
    narrow = len(here) > 1 and name in ("confusion", "eps") and all(p.figure.get_size_inches()[0] <= 7 for p in here)
    beside = f'<div class="side">{drawn}</div>' if narrow else drawn
    table = _class_table(report) if name == "classes" else sweeps.html(report) if name == "eps" else ""
    return f'<section id="{name}">\n<h2>{SECTIONS[name]}</h2>\n{beside}\n{table}</section>\n'


def _reading(report: Report, sections: Mapping[str, str]) -> list[str]:
    """Explanations of the terms on this page, as HTML."""
    of = {
        True: "With several seeds, the 95 % Student-t interval of the mean: how the training varies.",
        False: f"With one run, the 95 % interval over its {report.images}: how far a set of this size can be trusted.",
    }
    kinds = [of[many] for many in report.kinds]
    many = report.lowest != "worst"
    what = (
        "10 %.</b> The mean accuracy of the weakest tenth of the classes"
        if many
        else "class.</b> The accuracy of the weakest class"
    )
    better = f" One row is called fairer than another if its {LOWEST[report.lowest]} is better."
    fairer = better if len(report.groups) > 1 else ""
    return [
        "<b>Accuracy.</b> The share of the images that are classified right, after the attack where one is named. Every table "
        "and figure shows accuracies, and higher is better.",
        f"<b>Worst {what}, computed in each run" + ("; over seeds, the mean of these." if report.seeds else ".") + fairer,
        f"<b>Interval.</b> {' '.join(kinds)}" + (" Neither includes the other." if len(kinds) > 1 else ""),
        *(
            [f"<b>Bold.</b> Better than every other row, each at p &lt; .05, {escape(tables.tested_by(report))}."]
            if len(report.groups) > 1
            else []
        ),
        "<b>Attacks.</b> An attack gives an upper bound of robust accuracy: a stronger one may find more. Compare figures of "
        "the same attack, threat model and images only.",
        *(
            [
                "<b>Shift.</b> The lowest expected accuracy over all class distributions in a Kullback-Leibler ball around the "
                "uniform one."
            ]
            if sections["shift"]
            else []
        ),
    ]


def _failed(report: Report) -> str:
    found = tables.failures(report)
    if not found:
        return ""
    head = "A sanity check failed" if len(found) == 1 else f"{len(found)} sanity checks failed"
    why = "do not trust the robust accuracies before you know why"
    return f'<div class="failed" role="alert"><h2>{head}: {why}</h2>{html_list(found)}</div>\n'


def _about(report: Report) -> str:
    runs = [run for group in report.groups for run in group.runs]
    summaries = [run.summaries[report.main] for run in runs if report.main in run.summaries]
    parts = [_count(len(report.groups), "row"), _count(len(runs), "run"), _count(len(summaries[0]["per_class"]), "class")]
    images = {number for s in summaries if (number := images_of(s))}
    threats = {run.threats.get(report.main) for run in runs} - {None}
    parts += [f"{images.pop():,} {report.images}"] if len(images) == 1 else []
    parts += [f"{norm} eps {eps_text(eps)}" for norm, eps in threats] if len(threats) == 1 else []  # type: ignore[misc]
    return ", ".join(parts)


def _tables(report: Report, rows: Sequence[Mapping[str, Any]]) -> str:
    shown = f'{_table(report, rows, "rows")}<p class="caption">{escape(tables.caption(report))}</p>\n'
    other = _table(report, tables.with_others(rows, report), "others", report.others) if report.others else ""
    return f"{shown}<h3>{tables.OTHERS}</h3>\n{other}\n" if other else shown


def _table(report: Report, rows: Sequence[Mapping[str, Any]], name: str, keys: Sequence[str] | None = None) -> str:
    shown, first = tables.columns(report, keys), (report.main, report.lowest)
    shown.sort(key=lambda column: column[:2] != first)  # what no narrow screen may cut
    words = [(tables.HEADS[figure], html_short(report.heads[key], report.titles[key])) for key, figure, _ in shown]
    heads = [html_head("Row", "text"), *(html_head(figure, "number", attack) for figure, attack in words)]
    heads += [html_head("Runs", "number"), html_head("min", "number", "Training")]
    lines, order = [], [group.label for group in report.groups]
    for row in rows:
        colour = style.COLOURS[order.index(row["label"]) % len(style.COLOURS)]
        mark = f'<span class="swatch" style="background:{colour}"></span>' if len(rows) <= len(style.COLOURS) else ""
        cells = "".join(html_cell(row.get(f"{key}_{figure}")) for key, figure, _ in shown)
        cells += f'<td data-value="{row["runs"]}">{row["runs"]}</td>'
        cells += f'<td data-value="{row.get("train_seconds", {}).get("mean", "")}">{tables.minutes(row)}</td>'
        lines.append(f'<tr><th scope="row">{mark}{escape(row["label"])}</th>{cells}</tr>')
    return html_table(name, heads, lines)


def _class_table(report: Report) -> str:
    key = report.main
    names = list(dict.fromkeys(name for group in report.groups for name in group.classes(key)))
    heads = [html_head("Class", "text"), *(html_head(escape(group.label), "number") for group in report.groups)]
    lines = []
    for name in names:
        values = [mean(v) if (v := group.class_values(key, name)) else None for group in report.groups]
        cells = "".join(html_cell({"mean": v, "std": None}) for v in values)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f"<details><summary>{escape(report.titles[key])} accuracy of every class, in percent</summary>"
        f"{html_table('every-class', heads, lines)}</details>\n"
    )


def _runs(report: Report) -> str:
    """What was run: what all have in common once, then each run with its evaluations and their checks."""
    records = [{"label": group.label, **run.facts} for group in report.groups for run in group.runs]
    both = tables.shared(records)
    parts = [_facts(both["common"])] if len(records) > 1 else []
    runs = [(group.label, run) for group in report.groups for run in group.runs]
    for (label, run), record in zip(runs, both["runs"] if len(records) > 1 else records, strict=True):
        seed = f", seed {run.facts['seed']}" if "seed" in run.facts else ""
        inside = _facts({"folder": str(run.folder), **record})
        for suite, facts in run.audits.items():
            inside += f"<p><b>Evaluation {escape(suite)}</b></p>{_facts(facts)}"
        for check in run.checks:
            state, word = VERDICTS[check.get("passed")]
            detail = f": {escape(str(check['detail']))}" if check.get("detail") else ""
            inside += f'<p><span class="verdict {state}">{word}</span> {escape(check["name"])}{detail}</p>'
        parts.append(f"<details><summary>{escape(label + seed)}</summary>{inside}</details>")
    return f'<section id="runs">\n<h2>What was run</h2>\n{"".join(parts)}</section>'


def _facts(facts: Mapping[str, Any]) -> str:
    lines = []
    for key, value in facts.items():
        if key not in NOT_SHOWN and value not in (None, {}, []):
            said = f"<code>{_said(value)}</code>" if key == "command" else _said(value)
            lines.append(f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{said}</dd>")
    return f"<dl>{''.join(lines)}</dl>" if lines else ""


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return escape(", ".join(f"{key} {item}" for key, item in value.items() if item is not None))
    return escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _notes(report: Report) -> str:
    found = tables.notes(report)
    return f'<div class="notes"><h3>Notes</h3>{html_list(found)}</div>' if found else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "es" if what.endswith("s") else "s")
