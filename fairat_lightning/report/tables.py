"""The rows as Markdown, CSV and LaTeX, every figure an accuracy; text from outside is escaped for each."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from fairat_lightning.report import columns as heads
from fairat_lightning.report import differences, sweeps
from fairat_lightning.report.compare import against_controls, bias_note, headline
from fairat_lightning.report.groups import Report
from fairat_lightning.report.markup import interval, latex_text, markdown_text, one_line, spread
from fairat_lightning.report.significance import FIGURES, MOST_PAIRED

Row = Mapping[str, Any]


HEADS = FIGURES | {"worst": "worst"}  # as short as in the head of a column
OTHERS = "Under another norm or eps than in training"


def columns(report: Report, keys: Sequence[str] | None = None) -> list[tuple[str, str, str]]:
    """Attack, figure and title of each column: the clean average, then average and worst class of every robust test.

    Of these `keys`; without them those of the main table, which are all but the report's `others`.
    """
    found, shown = [], ("average", report.lowest)
    for key in [key for key in report.keys if key not in report.others] if keys is None else keys:
        for figure in shown[:1] if key == "clean" and len(report.keys) > 1 else shown:
            found.append((key, figure, f"{report.heads[key]} {HEADS[figure]}"))
    return found


def minutes(row: Row) -> str:
    """The mean training time of a row's runs, "12.3" or "0.04", on a CPU in processor minutes; a dash where none is known."""
    if "train_seconds" not in row:
        return "–"
    number = row["train_seconds"]["mean"] / 60
    return f"{number:.1f}" if number >= 0.1 else f"{number:.2f}"


def caption(report: Report) -> str:
    """What the numbers of the table are, and what bold means."""
    sizes = {len(group.runs) for group in report.groups}
    parts = ["Accuracy in percent, higher is better. Training is in minutes: of processor time on a CPU, of real time on a GPU."]
    if max(sizes) > 1:
        parts.append("Mean ± sample standard deviation over seeds; in brackets, the 95 % Student-t interval of the mean.")
    if 1 in sizes:
        parts.append(f"For a single run, brackets hold the 95 % interval over its {report.images}.")
    if len(report.groups) > 1:
        parts.append(
            f"Bold figures are better than every other row at p < .05 ({tested_by(report)}); "
            "rows without the figure do not count, and untested figures are not bold."
        )
    return " ".join(parts + heads.explained(report.titles, report.heads, report.keys))


def tested_by(report: Report) -> str:
    """The tests that rows of so many runs can meet."""
    sizes = [len(group.runs) for group in report.groups]
    paired, welch = f"by a paired bootstrap of the {report.images} that both have", "by Welch's t-test over the seeds"
    if max(sizes) == 1:
        return paired
    return welch if min(sizes) > MOST_PAIRED else f"one or two seeds {paired}, otherwise {welch}"


def markdown(rows: Sequence[Row], report: Report) -> str:
    """The table with failed checks above it, and below it the caption, the differences to controls, the findings, the notes."""
    lines = [f"> **FAILED CHECK** {markdown_text(text)}" for text in failures(report)]
    lines += [""] if lines else []
    lines += [*_grid(rows, columns(report)), "", markdown_text(caption(report)), ""]
    if report.others:
        lines += [f"**{OTHERS}**", "", *_grid(with_others(rows, report), columns(report, report.others)), ""]
    lines += [*sweeps.markdown(report), *differences.markdown(rows, report)]
    lines += [f"- {markdown_text(text)}" for text in (*headline(report), *against_controls(report), *notes(report))]
    return "\n".join(lines) + "\n"


def with_others(rows: Sequence[Row], report: Report) -> list[Row]:
    """The rows that have figures in the second table."""
    return [row for row in rows if any(row.get(f"{key}_average", {}).get("mean") is not None for key in report.others)]


def _grid(rows: Sequence[Row], shown: Sequence[tuple[str, str, str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = ["| | runs | " + " | ".join(markdown_text(title) for _, _, title in shown) + " | training, min |"]
    lines.append("|---|" + "---:|" * (len(shown) + 2))
    for row in rows:
        cells = []
        for key, figure, _ in shown:
            cell = row.get(f"{key}_{figure}")
            text = f"**{spread(cell)}**" if cell and cell.get("best") else spread(cell)
            cells.append(f"{text} {interval(cell)}".strip())
        lines.append("| " + " | ".join([markdown_text(row["label"]), str(row["runs"]), *cells, minutes(row)]) + " |")
    return lines


def latex(rows: Sequence[Row], report: Report) -> str:
    """A tabular for the booktabs package, and one of the report's `others`; captions are comments above them."""
    lines = [f"% FAILED CHECK {one_line(text)}" for text in failures(report)]
    lines += [f"% {caption(report)}", "% Needs \\usepackage{booktabs}.", *_tabular(rows, columns(report))]
    if report.others:
        lines += [f"% {OTHERS}", *_tabular(with_others(rows, report), columns(report, report.others))]
    return "\n".join(lines) + "\n"


def _tabular(rows: Sequence[Row], shown: Sequence[tuple[str, str, str]]) -> list[str]:
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(shown) + 2)}}}", r"\toprule"]
    lines.append(" & ".join(["", "runs", *(latex_text(title) for _, _, title in shown), "training, min"]) + r" \\")
    lines.append(r"\midrule")
    for row in rows:
        cells = [latex_text(row["label"]), str(row["runs"])]
        for key, figure, _ in shown:
            cell = row.get(f"{key}_{figure}")
            text = latex_text(spread(cell))
            text = rf"\textbf{{{text}}}" if cell and cell.get("best") else text
            cells.append(text + (rf" {{\scriptsize {interval(cell)}}}" if interval(cell) else ""))
        lines.append(" & ".join([*cells, minutes(row).replace("–", "--")]) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def comma_separated(rows: Sequence[Row]) -> str:
    """Every figure of every attack, in [0,1]: mean, and where they exist _std, _low and _high; empty for what is missing."""
    names = dict.fromkeys(
        (key, part)
        for row in rows
        for key, cell in row.items()
        if isinstance(cell, Mapping) and "mean" in cell
        for part in ("mean", "std", "low", "high")
        if any(isinstance(r.get(key), Mapping) and r[key].get(part) is not None for r in rows) or part == "mean"
    )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["label", "runs", *(key if part == "mean" else f"{key}_{part}" for key, part in names)])
    for row in rows:
        table.writerow([row["label"], row["runs"], *(row.get(key, {}).get(part) for key, part in names)])
    return text.getvalue()


def shared(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run records with what they all have in common (versions, hardware, revision, as a rule) said once."""
    common = {key: value for key, value in records[0].items() if all(r.get(key) == value for r in records)}
    return {"common": common, "runs": [{k: v for k, v in r.items() if k not in common} for r in records]}


def failures(report: Report) -> list[str]:
    """One sentence for each failed sanity check."""
    found = []
    for check in report.failed:
        where = f"{check['label']} ({check['run']})" + (f", {check['suite']}" if check["suite"] else "")
        found.append(f"{where}: {check['name']}" + (f": {check['detail']}" if check.get("detail") else ""))
    return found


def notes(report: Report) -> list[str]:
    """What a reader must know besides: of the runs, and of the worst class on few images."""
    bias = bias_note(report)
    return [*report.notes, *([bias] if bias else [])]
