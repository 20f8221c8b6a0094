"""Reproduce a table: train every recipe, bases first, judge each by AutoAttack, and set ours beside the published figures.

  python -m fairat_lightning.reproduce table=faal data.root=FOLDER                   on two CPU cores, on a part of CIFAR-10
  python -m fairat_lightning.reproduce table=fairat budget=hour trainer=gpu          short schedules, an hour of a modern GPU
  python -m fairat_lightning.reproduce table=leaderboard budget=full 'rows=[strong_floor]' 'seeds=[0,1,2]'

Tables: faal, fairat, leaderboard. Budgets: smoke (the default), hour, full (the papers' schedules, all test images).
Others: seeds=[0]  rows=[NAME,...] (with what they start from)  to=FOLDER. Any other word goes to every training.

Runs go to runs/reproduce/<table>-<budget>/<row>-s<seed>, the report to report/ beside them. What is finished is skipped and what
was stopped goes on, so the same command can be given again and again; with seeds or rows added it does the rest.
"""

import gc
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from fairat_lightning import autoattack
from fairat_lightning.__main__ import Stop, composed, refuse, resolved, run, start
from fairat_lightning.build import WRONG_INPUT, refuse_seed, short
from fairat_lightning.classifier import parse_word
from fairat_lightning.record import is_finished, read_facts, read_metrics

TABLES = Path(__file__).resolve().parent / "tables"
OWN = ("table", "budget", "seeds", "rows", "to")
FIXED = (
    *("seed", "overwrite", "init_from", "method.teacher", "hydra.run.dir"),
    *("experiment", "method", "objective", "awp", "averaging", "head"),
)  # by the rows
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
    rows, wanted, budget, settings, rest = parse(words)
    place = Path("runs") / "reproduce" / f"{settings['table']}-{budget['name']}"
    to = Path(settings.get("to") or place / "report")
    if to.exists() and not to.is_dir():
        raise ValueError(f"to={to} is a file: name a folder")
    if not autoattack.available():
        raise ValueError(autoattack.MISSING)
    jobs = plan(rows, budget, settings.get("seeds", budget["seeds"]), place, rest)
    jobs = [job for job in jobs if job.row in wanted]
    configurations = [composed(job.words)[0] for job in jobs]  # all of them before hours of training
    print(f"{len(wanted)} rows, {len(jobs)} runs, budget {budget['name']}: {budget['about']}")
    failed: dict[Path, str] = {}
    for number, (job, cfg) in enumerate(zip(jobs, configurations, strict=True), 1):
        print(f"\n[{number}/{len(jobs)}] {rows[job.row]['label']}, seed {job.seed}", flush=True)
        try:
            if missing := next((need for need in job.needs if need in failed), None):
                refuse(f"it starts from {short(missing.absolute())}, which could not be run")
            perform(job, cfg, rows[job.row], budget)
        except Stop as stop:
            if stop.code == os.EX_TEMPFAIL or (number == 1 and stop.code == 2):
                raise
            failed[job.folder] = stop.line
    render(rows, budget, place, rest, to)
    if failed:
        raise Stop(1, "; ".join(f"{folder.name}: {line}" for folder, line in failed.items()))


def parse(words: Sequence[str]) -> tuple[dict[str, Row], set[str], dict[str, Any], dict[str, Any], list[str]]:
    """The rows of the table and which of them are wanted, the budget, the other own words, and those of every training."""
    overrides = [parse_word(word) for word in words]
    keys = {str(o.key_or_group): o for o in overrides}
    if taken := next((key for key in FIXED if key in keys), None):
        raise ValueError(f"{taken} cannot be set here: each row has its own; seeds=[0,1,2] trains these seeds")
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
    for key, kind in (("seeds", int), ("rows", str)):
        value = settings.get(key, [kind()])
        if not isinstance(value, list) or not value or not all(type(v) is kind for v in value) or len(set(value)) < len(value):
            example = "[0,1,2]" if kind is int else "[pgd_at,faal]"
            raise ValueError(f"{key}={settings[key]} must be a list of different ones: {key}={example}")
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
    return rows, wanted, {"name": name, **budgets[name]}, settings, rest


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


def perform(job: Job, cfg: DictConfig, row: Row, budget: Mapping[str, Any]) -> None:
    """Train and test the run of configuration `cfg`, then judge it by AutoAttack; what is finished is skipped. Raises Stop."""
    from fairat_lightning import judge

    folder = job.folder.absolute()
    try:
        with as_command(job.words):
            if is_finished(folder, resolved(cfg)):
                print("trained and tested before")
            else:
                run(cfg, folder, sweep=True)
                gc.collect()  # a Trainer refers to itself, and would hold its memory of the GPU
        if not (words := judging(job, row, budget)):
            return
        with as_command(words):
            if _judged(folder / "evaluation" / "autoattack", words):
                print("judged by AutoAttack before")
            else:
                judge.main(words)
    except WRONG_INPUT as error:
        anew = f": remove {job.folder}, and this command makes it anew"
        refuse(re.sub(r": (choose another|overwrite=true).*", anew, str(error)))


def judging(job: Job, row: Row, budget: Mapping[str, Any]) -> list[str]:
    """The words of the job's evaluation; none where its row has none."""
    own = row.get("evaluate", {}).get(budget["name"])
    if own is False:
        return []
    words = [f"checkpoint={job.folder}", "suite=autoattack", *(budget["evaluate"] if own is None else own)]
    if own is None and budget["weakest"]:
        quoted = ["'" + name.replace("'", "\\'") + "'" for name in weakest(job.folder, budget["weakest"])]
        words.append(f"in_full=[{','.join(quoted)}]")
    return words


@contextmanager
def as_command(words: Sequence[str]) -> Iterator[None]:
    """Let the records say the command of their own run, which anybody can give again."""
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before


def _judged(place: Path, words: Sequence[str]) -> bool:
    """Whether the evaluation at `place` is finished, and the one that `words` ask for."""
    if read_metrics(place) is None:
        return False
    config = OmegaConf.create(yaml.safe_load((place / "config.yaml").read_text()))
    asked = [parse_word(word) for word in words[2:]]
    return all(OmegaConf.select(config, str(o.key_or_group)) == o.value() for o in asked)


def weakest(folder: Path, count: int) -> list[str]:
    """The `count` classes with the lowest robust accuracy on validation in the epoch that a run has selected, weakest first."""
    from fairat_lightning.report import read_run

    facts, prefix = read_facts(folder), "val/robust_class/"
    if "head" in facts:  # balanced after the last epoch
        found = {name: value for name, value in facts["head"]["robust_class"].items() if value is not None}
    else:
        (row,) = (row for row in read_run(folder).history if row["epoch"] == facts["selected_epoch"])
        found = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix) and not isnan(value)}
    return sorted(found, key=found.__getitem__)[:count]


def render(rows: Mapping[str, Row], budget: Mapping[str, Any], place: Path, rest: Sequence[str], to: Path) -> None:
    """Write the report of every finished run that these words have made, ours beside the published figures, and show both."""
    from fairat_lightning.report import Group, compare, read_run, report_of
    from fairat_lightning.report.__main__ import publish, show
    from fairat_lightning.report.published import beside

    seeds = sorted({int(part[1]) for path in place.glob("*-s*") if (part := re.search(r"-s(\d+)$", path.name))})
    found: dict[str, list[Path]] = {key: [] for key in rows}
    for job in plan(rows, budget, seeds, place, rest):
        if _finished(job):
            found[job.row].append(job.folder)
    if not any(found.values()):
        return
    report = report_of([Group(rows[key]["label"], [read_run(folder) for folder in runs]) for key, runs in found.items() if runs])
    over = {key: row.get("over", row.get("base")) for key, row in rows.items()}
    report.baselines = {rows[key]["label"]: rows[other]["label"] for key, other in over.items() if other}
    lines = beside(report, {row["label"]: row.get("published", ()) for row in rows.values()})
    if absent := [rows[key]["label"] for key, runs in found.items() if not runs]:
        report.notes.append(f"Not run yet: {', '.join(absent)}.")
    shown = compare.rows(report)
    print()
    show(report, shown, to, publish(report, shown, to, lines), lines)


def _finished(job: Job) -> bool:
    try:
        cfg, folder = composed(job.words)
        return is_finished(folder, resolved(cfg))
    except ValueError:  # of other words
        return False


if __name__ == "__main__":
    start(main, __doc__ or "")
