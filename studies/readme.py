"""Write the first table and picture of the README, and what was run in results/README.md, from the records: `make readme`.

The record of a table of `fairat_lightning.reproduce` is results/<table>-<budget>/table.json. Rows that are finished for one seed
alone are in results/<table>-<budget>-seed0 until the others are. The README shows the budget `night`; of the budget `smoke`, a
rehearsal, no record is kept.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from matplotlib.figure import Figure

from fairat_lightning.commands.tables.recipes import TABLES
from fairat_lightning.report.published import reference
from fairat_lightning.report.style import COLOURS, fill, legend, save, styled
from fairat_lightning.report.tables import markdown_text, spread

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
BEGIN, CLAIM, END = "<!-- written by make readme -->", "<!-- written by make readme: claim -->", "<!-- end -->"
TITLES = {"faal": "FAAL's table", "faal100": "FAAL on CIFAR-100", "fairat": "FairAT's table", "leaderboard": "Leaderboard"}
BUDGETS = yaml.safe_load((TABLES / "budgets.yaml").read_text())
REHEARSAL, NIGHT, LAST = "smoke", "night", "@last"
SHOWN = (  # table, row, what it is, and the figure whose difference to the control is the claim
    ("faal", "pgd_at", "PGD-AT: the base", "worst"),
    ("faal", "more", "2 more epochs of it: the control", "worst"),
    ("faal", "faal", "**2 epochs of FAAL**", "worst"),
    ("faal", "faal_trades", "2 epochs of FAAL from TRADES", "worst"),
    ("faal100", "faal", "CIFAR-100, worst 10 %: FAAL", "worst_10_percent"),
    ("fairat", "hard", "**FairAT**, hard 30 % of 2,500", "average"),
    ("fairat", "random", "the same, random 30 %", "average"),
    ("fairat", "all", "the same, all examples", "average"),
)
CONTROLS = {"faal_trades": "TRADES, 2 more epochs"}  # not the first: PGD-AT makes a network of TRADES less fair
WORDS = {"worst": "worst class", "worst_10_percent": "worst 10 %", "average": "average"}


def record(table: str, budget: str) -> dict[str, Any] | None:
    """The record of a table, each of its runs with all its facts; None where it was not run."""
    path = RESULTS / f"{table}-{budget}" / "table.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return {**found, "runs": [{**found["common"], **run} for run in found["runs"]]}


RECORDS = {(table, budget): record(table, budget) for table in TITLES for budget in BUDGETS}


def rows_of(table: str, budget: str) -> dict[str, Any]:
    """The rows of a table that its budget has."""
    rows = yaml.safe_load((TABLES / f"{table}.yaml").read_text())
    return {key: row for key, row in rows.items() if budget in row.get("budgets", BUDGETS)}


def first_table() -> str:
    """The rows of SHOWN: ours with cost and difference to the control, and one published row beside it; then what it rests on."""
    lines = [
        "| percent | hours | clean | PGD-20 | worst | APGD | worst | difference to its control, PGD-20 | published AutoAttack |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for table, key, what, figure in SHOWN:
        row = rows_of(table, NIGHT)[key]
        found = RECORDS[table, NIGHT] or {"rows": [], "runs": []}
        mine = next((one for one in found["rows"] if one["label"] == row["label"]), None)
        last = LAST if mine and f"pgd20{LAST}_average" in mine else ""
        cells = ["not run", *[""] * 6]
        if mine is not None:
            worst = figure if figure != "average" else "worst"
            names = [f"clean{last}_average", *(f"{attack}{last}_{f}" for attack in ("pgd20", "apgd") for f in ("average", worst))]
            if worst != "worst":
                names[3] = ""  # APGD met some classes alone
            hours = mean(trained(run) for run in found["runs"] if run["label"] == mine["label"])
            cells = [
                f"{hours:.2f}",
                *(spread(mine.get(name)) for name in names),
                difference(mine, f"pgd20{last}", figure, CONTROLS.get(key)),
            ]
        lines.append("| " + " | ".join([what, *cells, published(row)]) + " |")
    return "\n".join([*lines, "", *rests_on()])


def trained(run: dict[str, Any]) -> float:
    """Hours of a run's training: the processor's, where they were measured."""
    return float(run["seconds"].get("train_cpu") or run["seconds"]["train"]) / 3600


def spent(run: dict[str, Any]) -> float:
    """Hours of a run: those of its training, and the clock's of its test and evaluations, as far as they are known."""
    judged = [audit.get("seconds") or 0 for audit in run.get("evaluations", {}).values()]
    return trained(run) + (run["seconds"]["test"] + sum(judged)) / 3600


def difference(row: dict[str, Any], attack: str, figure: str, control: str | None) -> str:
    """A row less its control, without a name its first, with the interval; empty where there is none."""
    entries = row.get("against", [{}])
    found = next(entry for entry in entries if control in (None, entry.get("label"))).get(attack, {}).get(figure)
    if found is None:
        return ""
    text = f"{WORDS[figure]} {100 * found['difference']:+.1f}"
    if found["low"] is not None:
        text += f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
    return text.replace("-", "−")


def published(row: dict[str, Any]) -> str:
    """One published row's AutoAttack figures, and whose they are."""
    for quoted in map(reference, row.get("published", ())):
        values = [quoted.figures.get(("autoattack", figure)) for figure in ("average", "worst")]
        if any(value is not None for value in values):
            return ", ".join(f"{100 * value:.1f}" for value in values if value is not None) + f" ({markdown_text(quoted.cite)})"
    return ""


def rests_on() -> list[str]:
    """What the figures were measured on, and what they can and cannot show."""
    found = [run for table in TITLES if (one := RECORDS[table, NIGHT]) for run in one["runs"]]
    if not found:
        return ["Not run yet."]
    seeds = sorted({run["seed"] for run in found})
    words = f"seed{'s' if len(seeds) > 1 else ''} {' and '.join(map(str, seeds))}"
    machines = "; ".join(sorted({processor(run["hardware"]) for run in found}))
    return [
        "A PreActResNet-18 of a quarter of the papers' width, bases trained against one step (N-FGSM), "
        f"{machines}, {words}; hours of training on one core, as a mean, ± over seeds. "
        "The intervals (95 %) speak of these networks on other images. Published: average, worst class.",
    ]


def claim() -> list[str]:
    """What the picture shows, in words; nothing until both rows are there."""
    classes = (RECORDS["faal", NIGHT] or {}).get("classes", {})
    rows = rows_of("faal", NIGHT)
    base, fair = (classes.get(rows[key]["label"], {}).get("pgd20") for key in ("pgd_at", "faal"))
    if not base or not fair:
        return []
    shown = {row["label"]: row for row in (RECORDS["faal", NIGHT] or {})["rows"]}
    seeds = shown[rows["faal"]["label"]]["runs"]
    worst, average = (
        [100 * shown[rows[key]["label"]][f"pgd20_{figure}"]["mean"] for key in ("pgd_at", "faal")]
        for figure in ("worst", "average")
    )
    return [
        "![Robust accuracy of each class, weakest first, before and after FAAL](docs/claim.png)",
        "",
        f"Under attack (PGD-20) a robust network gets {worst[0]:.1f} % of its weakest class right; after two epochs of FAAL, "
        f"{worst[1]:.1f} %. The average goes from {average[0]:.1f} to {average[1]:.1f} %. (Means of {seeds} seeds, each with its "
        "own weakest class.)",
    ]


@styled()
def picture(base: dict[str, float], fair: dict[str, float]) -> Figure:
    """Robust accuracy of every class, weakest of the base first, before and after FAAL."""
    names = sorted(base, key=base.__getitem__)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for k, (label, values) in enumerate((("PGD-AT, the base", base), ("after 2 epochs of FAAL", fair))):
        places = [i + (k - 0.5) * 0.4 for i in range(len(names))]
        axes.bar(places, [100 * values[name] for name in names], 0.37, label=label, **fill(k))
        axes.axhline(100 * sum(values.values()) / len(values), color=COLOURS[k], linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="right under PGD-20 (%)", xlim=(-0.6, len(names) - 0.4), ylim=(0, 100))
    legend(figure, axes)
    return figure


def counted(found: dict[str, Any]) -> str:
    seeds = sorted({row["runs"] for row in found["rows"]})
    return " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))) + (" seeds" if seeds[-1] > 1 else " seed")


def what_was_run() -> str:
    """One line for each table and budget: where its record is, on what it was run and when, or that it was not."""
    lines = ["| table | budget | record | runs | core-hours | hardware | revision | date |", "|---|---|---|---|---|---|---|---|"]
    for table, title in TITLES.items():
        more = {path.name.removeprefix(f"{table}-") for kind in ("seed0", "width*") for path in RESULTS.glob(f"{table}-*-{kind}")}
        for budget in (*(budget for budget in BUDGETS if budget != REHEARSAL), *sorted(more)):
            found = record(table, budget)
            if found is None:
                lines.append(f"| {title} | {budget} | **not run** | | | | | |")
                continue
            hardware = sorted({processor(run["hardware"]) for run in found["runs"]})
            revisions = sorted({(run["git"] or "none")[:7] for run in found["runs"]})
            days = sorted({run["started"][:10] for run in found["runs"]})
            rows = f"{len(found['rows'])} of {len(rows_of(table, budget.partition('-')[0]))} rows"
            took = sum(map(spent, found["runs"]))
            cells = [
                *(
                    title,
                    budget,
                    f"[`{table}-{budget}/`]({table}-{budget}/{beside(table, budget)})",
                    f"{rows}, {counted(found)}",
                    f"{took:.1f}",
                ),
                *("; ".join(hardware), ", ".join(revisions), " to ".join(dict.fromkeys((days[0], days[-1])))),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", of_hours(), "", *(f"- `{budget}`: {settings['about']}." for budget, settings in BUDGETS.items())]
    lines.append(f"\n`{REHEARSAL}` is a rehearsal of the others, of which no record is kept.")
    return "\n".join(lines)


def of_hours() -> str:
    """What the column of hours is made of, and how many evaluations are not in it."""
    audits = [audit for one in RECORDS.values() if one for run in one["runs"] for audit in run.get("evaluations", {}).values()]
    without = sum(audit.get("seconds") is None for audit in audits)
    return (
        "Core-hours: training by the processor's own count; test and evaluations by the clock, which other work on the machine "
        f"makes longer. {without} of {len(audits)} evaluations did not record their time and are not in it."
    )


def beside(table: str, budget: str) -> str:
    """The page of a record: ours beside the published figures, where there are any."""
    return next(name for name in ("published.md", "table.md") if (RESULTS / f"{table}-{budget}" / name).exists())


def processor(hardware: dict[str, Any]) -> str:
    return hardware["gpu"] or f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores"


def placed(text: str, block: str, begin: str = BEGIN) -> str:
    """`text` with `block` between the two marks."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}\n{block}\n{END}{after}"


def readme(text: str) -> str:
    """The README with the claim and the first table of the records."""
    return placed(placed(text, "\n".join(claim()), CLAIM), first_table())


def main() -> None:
    (ROOT / "README.md").write_text(readme((ROOT / "README.md").read_text()))
    (RESULTS / "README.md").write_text(placed((RESULTS / "README.md").read_text(), what_was_run()))
    if claim():
        classes = RECORDS["faal", NIGHT]["classes"]  # type: ignore[index]
        rows = rows_of("faal", NIGHT)
        base, fair = (classes[rows[key]["label"]]["pgd20"] for key in ("pgd_at", "faal"))
        save(picture(base, fair), ROOT / "docs" / "claim.png")


if __name__ == "__main__":
    main()
