"""Reproduce a table: train every recipe, bases first, judge each by AutoAttack, and set ours beside the published figures.

  python -m fairat_lightning.reproduce table=faal data.root=FOLDER                   on two CPU cores, on a part of CIFAR-10
  python -m fairat_lightning.reproduce table=fairat budget=hour trainer=gpu          short schedules, an hour of a modern GPU
  python -m fairat_lightning.reproduce table=leaderboard budget=full 'rows=[strong_floor]' 'seeds=[0,1,2]'

Tables: faal, fairat, leaderboard. Budgets: smoke (the default), hour, full (the papers' schedules, all test images).
Others: seeds=[0]  rows=[NAME,...] (with what they start from)  to=FOLDER. Any other word goes to every training.

Runs go to runs/reproduce/<table>-<budget>/<row>-s<seed>, the report to report/ beside them. What is finished is skipped and what
was stopped goes on, so the same command can be given again and again; with seeds or rows added it does the rest.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fairat_lightning.__main__ import Stop, composed, refuse, resolved, run, start
from fairat_lightning.build import WRONG_INPUT, refuse_seed, short
from fairat_lightning.record import is_finished, read_facts, read_metrics

TABLES = Path(__file__).resolve().parent / "tables"
OWN = ("table", "budget", "seeds", "rows", "to")
FIXED = ("seed", "overwrite", "init_from", "method.teacher", "hydra.run.dir")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One training with its evaluation: the row and seed it is of, the words of its command, and the folders it starts from."""

    row: str
    seed: int
    folder: Path
    words: tuple[str, ...]
    needs: tuple[Path, ...]


def main(words: list[str]) -> None:
    """Run what the words of the command say; ValueError for wrong ones, SystemExit(1) where a row could not be run."""
    table, budget, settings, rest = parse(words)
    place = Path("runs") / "reproduce" / f"{settings['table']}-{budget['name']}"
    to = Path(settings.get("to") or place / "report")
    jobs = plan(table, budget, settings.get("seeds", budget["seeds"]), place, rest)
    for job in jobs:  # before hours of training
        composed(job.words)
    print(f"{len(table)} rows, {len(jobs)} runs, budget {budget['name']}: {budget['about']}")
    failed: dict[Path, str] = {}
    for number, job in enumerate(jobs, 1):
        title = f"{table[job.row]['label']}, seed {job.seed}"
        print(f"\n[{number}/{len(jobs)}] {title}", flush=True)
        try:
            if missing := next((need for need in job.needs if need in failed), None):
                refuse(f"it starts from {short(missing.absolute())}, which could not be run")
            perform(job, table[job.row], budget)
        except WRONG_INPUT as error:
            failed[job.folder] = str(error)
            print(f"error: {error}", file=sys.stderr)
        except Stop as stop:
            if stop.code == os.EX_TEMPFAIL:
                raise
            failed[job.folder] = stop.line
    if done := [job for job in jobs if job.folder not in failed]:
        render(table, done, to)
    if failed:
        raise Stop(1, "; ".join(f"{folder.name}: {line}" for folder, line in failed.items()))


def parse(words: Sequence[str]) -> tuple[dict[str, Row], dict[str, Any], dict[str, Any], list[str]]:
    """The table's rows and the budget that the words choose, the other own words, and those of every training."""
    overrides = OverridesParser.create().parse_overrides(list(words))
    if sweep := next((o.input_line for o in overrides if o.is_sweep_override()), None):
        raise ValueError(f"{sweep}: this command takes one value a key, write a list as [a,b]")
    keys = {str(o.key_or_group): o for o in overrides}
    if taken := next((key for key in FIXED if key in keys), None):
        raise ValueError(f"{taken} cannot be set here: each row has its own; seeds=[0,1,2] trains these")
    settings: dict[str, Any] = {}
    for key in OWN:
        if key in keys:
            value = keys[key].value()
            settings[key] = OmegaConf.to_object(OmegaConf.create(value)) if isinstance(value, list) else value
    tables = sorted(path.stem for path in TABLES.glob("*.yaml") if path.stem != "budgets")
    budgets = yaml.safe_load((TABLES / "budgets.yaml").read_text())
    for key, known in (("table", tables), ("budget", list(budgets))):
        if settings.setdefault(key, "smoke" if key == "budget" else None) not in known:
            raise ValueError(f"{key}={settings[key]} is unknown: choose one of {', '.join(known)}")
    for key in ("seeds", "rows"):
        if key in settings and (not isinstance(settings[key], list) or not settings[key]):
            raise ValueError(f"{key}={settings[key]} must be a list: {key}=[a,b]")
    for seed in settings.get("seeds", ()):
        refuse_seed(seed)
    if "to" in settings and (not isinstance(settings["to"], str) or not settings["to"]):
        raise ValueError(f"to={settings['to']} must be a path")
    name = settings["budget"]
    rows = yaml.safe_load((TABLES / f"{settings['table']}.yaml").read_text())
    rows = {key: row for key, row in rows.items() if name in row.get("budgets", budgets)}
    if unknown := next((key for key in settings.get("rows", ()) if key not in rows), None):
        raise ValueError(f"rows={unknown} is unknown: table={settings['table']} budget={name} has {', '.join(rows)}")
    wanted = set(settings.get("rows", rows))
    for key in reversed(rows):  # what a row starts from stands before it
        wanted |= {rows[key][of] for of in ("base", "teacher", "over") if key in wanted and of in rows[key]}
    rest = [str(o.input_line) for o in overrides if o.key_or_group not in OWN]
    return {key: row for key, row in rows.items() if key in wanted}, {"name": name, **budgets[name]}, settings, rest


def plan(rows: Mapping[str, Row], budget: Mapping[str, Any], seeds: Sequence[int], place: Path, rest: Sequence[str]) -> list[Job]:
    """Every training in order, for one seed after the other. Of several words for one key the last counts: `rest` last."""
    jobs = []
    for seed in seeds:
        for name, row in rows.items():
            own = budget["finetune" if "base" in row else "scratch"]
            words = [*row["words"], *budget["words"], *own, *row.get(budget["name"], ()), *rest]
            folder, needs = place / f"{name}-s{seed}", []
            for key, word in (("base", "init_from"), ("teacher", "method.teacher")):
                if key in row:
                    needs.append(place / f"{row[key]}-s{seed}")
                    words.append(f"{word}={needs[-1]}")
            words += [f"seed={seed}", f"hydra.run.dir={folder}"]
            last = {word.lstrip("+").partition("=")[0]: word for word in words}
            jobs.append(Job(name, seed, folder, tuple(last.values()), tuple(needs)))
    return jobs


def perform(job: Job, row: Row, budget: Mapping[str, Any]) -> None:
    """Train and test the job's run, then judge it by AutoAttack; each is skipped where it is finished."""
    from fairat_lightning import judge

    cfg, folder = composed(job.words)
    if is_finished(folder, resolved(cfg)):
        print("trained and tested before")
    else:
        run(cfg, folder, sweep=True)
    own = row.get("evaluate", {}).get(budget["name"])
    words = list(budget["evaluate"] if own is None else own)
    if own is None and budget["weakest"]:
        words.append(f"in_full=[{','.join(weakest(folder, budget['weakest']))}]")
    place = folder / "evaluation" / "autoattack"
    if read_metrics(place) is not None and _same(place, words):
        print("judged by AutoAttack before")
    else:
        judge.main([f"checkpoint={job.folder}", "suite=autoattack", *words])


def _same(place: Path, words: Sequence[str]) -> bool:
    """Whether an evaluation is the one that `words` ask for, as far as they say."""
    asked = {str(o.key_or_group): o.value() for o in OverridesParser.create().parse_overrides(list(words))}
    config = yaml.safe_load((place / "config.yaml").read_text())
    return all(config.get(key) == asked.get(key) for key in ("samples_per_class", "in_full"))


def weakest(folder: Path, count: int) -> list[str]:
    """The `count` classes with the lowest robust accuracy on validation in the epoch that a run has selected, weakest first."""
    from fairat_lightning.report import read_run

    epoch = read_facts(folder)["selected_epoch"]
    (row,) = (row for row in read_run(folder).history if row["epoch"] == epoch)
    prefix = "val/robust_class/"
    found = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
    return sorted(found, key=found.__getitem__)[:count]


def render(table: Mapping[str, Row], jobs: Sequence[Job], to: Path) -> None:
    """Write the report of the runs that there are, ours beside the published figures, and show both."""
    from fairat_lightning.report import Group, compare, read_run, report_of
    from fairat_lightning.report.__main__ import publish, show
    from fairat_lightning.report.published import beside

    found = {key: [read_run(job.folder) for job in jobs if job.row == key] for key in table}
    groups = [Group(table[key]["label"], runs) for key, runs in found.items() if runs]
    report = report_of(groups)
    over = {row["label"]: table[row["over"]]["label"] for row in table.values() if row.get("over") in table}
    lines = beside(report, {row["label"]: row.get("published", ()) for row in table.values()}, over)
    rows = compare.rows(report)
    print()
    show(report, rows, to, publish(report, rows, to, lines), lines)


if __name__ == "__main__":
    start(main, __doc__ or "")
