"""The command.

    python -m fairat_lightning.report [LABEL=]RUN [[LABEL=]RUN ...] [--sort] [--to FOLDER]

gathers runs into tables (Markdown, CSV, LaTeX, JSON), figures (PNG, PDF) and one HTML page. Runs of one label are seeds of one
row; without labels, so are runs whose configurations differ in the seed only. Wrong input is one line and exit code 2, and
nothing is written then.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from fairat_lightning.record import write, write_json
from fairat_lightning.report import against, compare, figures, significance, tables
from fairat_lightning.report.gallery import Picture, pictures
from fairat_lightning.report.gather import LAYOUT
from fairat_lightning.report.groups import Report, gather
from fairat_lightning.report.page import page
from fairat_lightning.report.published import Beside, markdown, terminal
from fairat_lightning.report.style import save
from fairat_lightning.report.terminal import class_table, row_table

MOST_SENTENCES = 6  # on the terminal


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}: --help lists what there is\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Gather, draw and write; SystemExit(2) after one line on stderr for wrong input."""
    parser = _Parser(
        prog="python -m fairat_lightning.report", description="Compare finished runs class by class: tables, figures, one page."
    )
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]RUN", help="folders of finished runs; runs of one label are seeds")
    parser.add_argument("--sort", action="store_true", help="highest worst class first; the first run stays the baseline")
    parser.add_argument("--to", type=Path, default=Path("report"), metavar="FOLDER", help="where the report goes (report)")
    options = parser.parse_args(arguments)
    try:
        report = gather(options.runs)
        rows = compare.rows(report)
        rows = compare.worst_first(report, rows) if options.sort else rows
        made = publish(report, rows, options.to)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    show(report, rows, options.to, made)


def publish(report: Report, rows: Sequence[dict[str, Any]], to: Path, lines: Sequence[Beside] = ()) -> list[Picture]:
    """Write the report into `to`, with ours beside published figures where there are `lines`; an error leaves nothing behind."""
    if to.exists() and not to.is_dir():
        raise ValueError(f"--to {to} is a file: name a folder")
    above = next(folder for folder in (to.absolute(), *to.absolute().parents) if folder.is_dir())
    place = Path(tempfile.mkdtemp(prefix=".report.", dir=above))
    try:
        (place / "figures").mkdir()
        made = pictures(report)
        for picture in made:
            for suffix in (".png", ".pdf"):
                save(picture.figure, place / "figures" / (picture.name + suffix))
        save(_comparison(report, rows), place / "comparison.png")
        write(place / "table.md", tables.markdown(rows, report))
        write(place / "table.csv", tables.comma_separated(rows))
        write(place / "table.tex", tables.latex(rows, report))
        found = {"rows": list(rows), "classes": _classes(report), **tables.shared(records(report)), **_findings(report, rows)}
        write_json(place / "table.json", found)
        write(place / "index.html", page(report, rows, made, lines))
        if lines:
            write(place / "published.md", markdown(lines))
        for path in sorted(p for p in place.rglob("*") if p.is_file()):
            target = to / path.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return made


def records(report: Report) -> list[dict[str, Any]]:
    """The run.json of every run with its row's label, and those of its evaluations."""
    found = []
    for group in report.groups:
        for run in group.runs:
            audits = {name: {k: v for k, v in facts.items() if k not in LAYOUT} for name, facts in run.audits.items()}
            facts = {k: v for k, v in run.facts.items() if k not in LAYOUT}
            found.append({"label": group.label, **facts, **({"evaluations": audits} if audits else {})})
    return found


def _comparison(report: Report, rows: Sequence[dict[str, Any]]) -> Any:
    """Classes side by side for up to 4 rows, else a point for each row."""
    title = report.titles[report.main]
    if len(report.groups) > 4:
        return figures.row_points(rows, report.main, title)
    means = {group.label: found for group in report.groups if report.main in (found := compare.mean_of(group))}
    return figures.class_bars(means, (report.main,), report.titles)


def _classes(report: Report) -> dict[str, Any]:
    """The accuracy of each class of every row, the mean over its seeds, under the attacks that have a column."""
    means = {group.label: compare.mean_of(group) for group in report.groups}
    return {label: {key: found[key]["per_class"] for key in report.keys if key in found} for label, found in means.items()}


def _findings(report: Report, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "findings": [*compare.headline(report), *compare.against_first(report)],
        "notes": tables.notes(report),
        "tests": significance.explained(report, rows),
        "failed_checks": tables.failures(report),
        "caption": tables.caption(report),
    }


def _narrow(report: Report) -> list[str]:
    """The three attacks for which two rows of classes fit a terminal: clean, the main one, and the first other."""
    first = [key for key in report.keys if key in ("clean", report.main)]
    chosen = [*first, *(key for key in report.keys if key not in first)][:3]
    return [key for key in report.keys if key in chosen]


def show(report: Report, rows: Sequence[dict[str, Any]], to: Path, made: Sequence[Picture], lines: Sequence[Beside] = ()) -> None:
    """Print the table, what it finds, and where its files are."""
    console = Console()
    for text in tables.failures(report):
        console.print(f"FAILED CHECK {text}", style="bold red", markup=False, highlight=False)
    means = {group.label: compare.mean_of(group) for group in report.groups}
    few = len(report.groups) <= 2
    console.print(class_table(means, _narrow(report), report.titles) if few else row_table(rows, report))
    for text in (*compare.headline(report), *compare.against_first(report)[:MOST_SENTENCES], *report.notes):
        console.print(text, markup=False, highlight=False)
    if (differences := against.terminal(rows, report)).row_count:
        console.print(differences)
    for text in significance.explained(report, rows):
        console.print(text, style="dim", markup=False, highlight=False)
    if (beside := terminal(lines)).row_count:
        console.print(beside)
    console.print()
    names = ("index.html", "table.md", "table.csv", "table.tex", "table.json", "comparison.png")
    for name, what in zip(names, ("page", "table", "", "", "record", "picture"), strict=True):
        console.print(f"[dim]{what:8}[/dim] ", end="")
        console.print(str(to / name), markup=False, soft_wrap=True, highlight=False)
    console.print(f"[dim]{'figures':8}[/dim] ", end="")
    console.print(f"{to / 'figures'} ({len(made)}, each as PNG and PDF)", markup=False, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
