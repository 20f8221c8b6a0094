"""Write a report: tables (Markdown, CSV, LaTeX, JSON), figures (PNG, PDF) and one HTML page."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairat_lightning.record.atomic_write import write, write_json
from fairat_lightning.report import compare, differences, figures, tables
from fairat_lightning.report.columns import CUT
from fairat_lightning.report.gallery import Picture, pictures
from fairat_lightning.report.groups import Report
from fairat_lightning.report.page import page
from fairat_lightning.report.published import Beside, markdown
from fairat_lightning.report.runs import LAYOUT
from fairat_lightning.report.style import save


def publish(report: Report, rows: Sequence[dict[str, Any]], to: Path, lines: Sequence[Beside] = ()) -> list[Picture]:
    """Write the report into `to`, with published figures where there are `lines`; an error leaves nothing behind."""
    if to.exists() and not to.is_dir():
        raise ValueError(f"--to {to} is a file: name a folder")
    above = next(folder for folder in (to.absolute(), *to.absolute().parents) if folder.is_dir())
    try:
        place = Path(tempfile.mkdtemp(prefix=".report.", dir=above))
    except OSError as error:
        raise ValueError(f"--to {to}: nothing can be written into {above}: {error.strerror}") from error
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
        write(place / "index.html", page(report, rows, made, lines))
        if lines:
            write(place / "published.md", markdown(lines))
        files = [path.relative_to(place) for path in sorted(place.rglob("*")) if path.is_file()]
        found = {"rows": list(rows), "classes": _classes(report), **tables.shared(records(report)), **_findings(report, rows)}
        write_json(place / "table.json", {**found, "files": [str(file) for file in files]})
        _replace(place, to, [*files, Path("table.json")])
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return made


def _replace(place: Path, to: Path, files: Sequence[Path]) -> None:
    """Move the files into `to`, whose last report's other files go; ValueError, before anything has changed, where one cannot."""
    for target in (to / file for file in files):
        if target.is_dir():
            raise ValueError(f"{target} is a folder, where the report has a file: choose another folder for the report")
        if target.parent.exists() and not target.parent.is_dir():
            raise ValueError(f"{target.parent} is a file, where the report has a folder: choose another folder for the report")
    try:
        before = [Path(str(file)) for file in json.loads((to / "table.json").read_text())["files"]]
    except (OSError, ValueError, TypeError, KeyError):  # none, or of an earlier version
        before = []
    for file in set(before) - set(files):
        if file.parent in (Path(), Path("figures")):
            (to / file).unlink(missing_ok=True)
    for file in files:
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).replace(to / file)


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
    title = report.heads[report.main].removesuffix(CUT)
    if len(report.groups) > 4:
        return figures.row_points(rows, report.main, title, report.lowest)
    means = {group.label: found for group in report.groups if report.main in (found := compare.mean_of(group))}
    return figures.class_bars(means, (report.main,), report.titles)


def _classes(report: Report) -> dict[str, Any]:
    """The accuracy of each class of every row, the mean over its seeds, under the attacks that have a column."""
    means = {group.label: compare.mean_of(group) for group in report.groups}
    return {
        label: {key: found[key]["per_class"] for key in dict.fromkeys([*report.keys, *report.swept]) if key in found}
        for label, found in means.items()
    }


def _findings(report: Report, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "findings": [*compare.headline(report), *compare.against_controls(report)],
        "notes": tables.notes(report),
        "tests": differences.explained(report, rows),
        "failed_checks": tables.failures(report),
        "caption": tables.caption(report),
    }
