"""Write the first table of the README, and what was run in results/README.md, from the records: `make readme`.

Of each table of `fairat_lightning.reproduce` the record of the largest budget is shown: results/<table>-<budget>/table.json.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from fairat_lightning.report.published import reference
from fairat_lightning.report.tables import markdown_text, spread
from fairat_lightning.reproduce import TABLES

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- written by make readme -->", "<!-- end -->"
TITLES = {"faal": "FAAL's table", "fairat": "FairAT's table", "leaderboard": "Leaderboard"}
FIGURES = ("clean_average", "pgd20_average", "pgd20_worst", "autoattack_average", "autoattack_worst")
BUDGETS = yaml.safe_load((TABLES / "budgets.yaml").read_text())


def _record(table: str, budget: str) -> dict[str, Any] | None:
    """The record of a table, each of its runs with all its facts; None where it was not run."""
    path = HERE / f"{table}-{budget}" / "table.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return {**found, "runs": [{**found["common"], **run} for run in found["runs"]]}


RECORDS = {(table, budget): _record(table, budget) for table in TITLES for budget in BUDGETS}


def rows_of(table: str, budget: str) -> dict[str, Any]:
    """The rows of a table that its budget has."""
    rows = yaml.safe_load((TABLES / f"{table}.yaml").read_text())
    return {key: row for key, row in rows.items() if budget in row.get("budgets", BUDGETS)}


def first_table() -> str:
    """For every row ours and one published AutoAttack figure, with the budget above, and what the figures rest on."""
    lines = [
        "| percent | clean average | PGD-20 average | worst | AutoAttack average | worst | published average | worst | by |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    used = []
    for table, title in TITLES.items():
        budget = next((name for name in reversed(BUDGETS) if RECORDS[table, name]), None)
        if budget is None:
            continue
        found = RECORDS[table, budget]
        assert found is not None
        used.append(budget)
        lines.append(f"| **{title}, budget {budget}**, {counted(found)} |" + " |" * 8)
        ours = {row["label"]: row for row in found["rows"]}
        for row in rows_of(table, budget).values():
            mine = ours.get(row["label"], {})
            cells = [spread(mine.get(key)) for key in FIGURES] if mine else ["not run", "", "", "", ""]
            quoted = next(
                (
                    r
                    for r in map(reference, row.get("published", ()))
                    if {("autoattack", f) for f in ("average", "worst")} & set(r.figures)
                ),
                None,
            )
            values = [quoted.figures.get(("autoattack", figure)) if quoted else None for figure in ("average", "worst")]
            theirs = ["" if value is None else f"{100 * value:.1f}" for value in values]
            by = "" if not quoted else quoted.cite if quoted.label == row["label"] else f"{quoted.label}, {quoted.cite}"
            lines.append("| " + " | ".join([markdown_text(row["label"]), *cells, *theirs, markdown_text(by)]) + " |")
    missing = [name for name in BUDGETS if not any(RECORDS[table, name] for table in TITLES)]
    said = [*map(rests_on, dict.fromkeys(used)), *([f"Not run yet: budget {', '.join(missing)}."] if missing else [])]
    return "\n".join([*lines, "", *said])


def rests_on(budget: str) -> str:
    """What the AutoAttack figures of a budget were measured on."""
    sample = re.search(r"samples_per_class=(\d+)", " ".join(BUDGETS[budget]["evaluate"]))
    if not sample:
        return f"Budget {budget}: AutoAttack on all test images."
    return (
        f"Budget {budget}: AutoAttack's averages rest on {sample[1]} images of each class; its worst class is sought among the "
        f"{BUDGETS[budget]['weakest']} that are weakest on validation, all of whose test images were attacked, and not among all "
        "ten as the published ones."
    )


def counted(found: dict[str, Any]) -> str:
    seeds = sorted({row["runs"] for row in found["rows"]})
    return " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))) + (" seeds" if seeds[-1] > 1 else " seed")


def what_was_run() -> str:
    """One line for each table and budget: where its record is, on what it was run and when, or that it was not."""
    lines = ["| table | budget | record | runs | hardware | revision | date |", "|---|---|---|---|---|---|---|"]
    for table, title in TITLES.items():
        for budget, settings in BUDGETS.items():
            found = RECORDS[table, budget]
            about = f"{budget}: {settings['about']}"
            if found is None:
                lines.append(f"| {title} | {about} | **not run** | | | | |")
                continue
            hardware = sorted({processor(run["hardware"]) for run in found["runs"]})
            revisions = sorted({(run["git"] or "none")[:7] for run in found["runs"]})
            days = sorted({run["started"][:10] for run in found["runs"]})
            rows = f"{len(found['rows'])} of {len(rows_of(table, budget))} rows"
            cells = [
                *(title, about, f"[`{table}-{budget}/`]({table}-{budget}/published.md)", f"{rows}, {counted(found)}"),
                *("; ".join(hardware), ", ".join(revisions), " to ".join(dict.fromkeys((days[0], days[-1])))),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def processor(hardware: dict[str, Any]) -> str:
    return hardware["gpu"] or f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores"


def placed(text: str, block: str) -> str:
    """`text` with `block` between the two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main() -> None:
    for path, block in ((HERE.parent / "README.md", first_table()), (HERE / "README.md", what_was_run())):
        path.write_text(placed(path.read_text(), block))


if __name__ == "__main__":
    main()
