"""The trainings and evaluations of a table, done one by one, and the report of what is finished."""

import gc
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import Timeout
from omegaconf import DictConfig

from fairat_lightning.commands.errors import Stop, refuse
from fairat_lightning.commands.one_run import locked, run
from fairat_lightning.commands.tables.judging import OTHERWISE, Held, as_command, judge_all
from fairat_lightning.commands.tables.recipes import Job, Plan, controls, finished, folder_of_evaluation, other
from fairat_lightning.commands.tables.workload import Clock, Task
from fairat_lightning.config.compose import WRONG_INPUT, resolved
from fairat_lightning.record.reader import read_facts, read_metrics
from fairat_lightning.record.writer import is_finished
from fairat_lightning.running.terminal import short

PAUSE = 30  # seconds between two looks at what another process is doing


@dataclass
class Queue:
    """The trainings and evaluations of a plan, one by one; those at which another process works are passed over meanwhile."""

    plan: Plan
    jobs: dict[Job, DictConfig]
    failed: dict[Path, str] = field(default_factory=dict)

    def run(self) -> dict[Path, str]:
        """Do everything; the folders that could not be run, with the line that says why. Raises Stop where told to stop."""
        seeds = list(dict.fromkeys(job.seed for job in self.jobs))
        tasks: list[Task] = [("train", job) for job in self.jobs]
        clock = Clock(self.plan, self.jobs)
        clock.announce()
        done, waited = 0, False
        while tasks or seeds:
            before, running = done, 0
            for seed in [s for s in seeds if not any(job.seed == s for _, job in tasks)]:
                tasks = [("judge", job) for job in self.to_judge(seed)] + tasks
                seeds.remove(seed)
            for task in list(tasks):
                if not self.ready(task, tasks):
                    continue
                if self.held(task):
                    running += 1
                    continue
                left = [*tasks, *(("judge", job) for seed in seeds for job in self.to_judge(seed))]
                print(f"\n[{done + 1}/{done + len(left)}] {self.title(task)}: {clock.left(left, running)}", flush=True)
                try:
                    with clock.timing(task):
                        self.perform(task)
                except Held:
                    running += 1
                    continue
                except Stop as stop:
                    if stop.code == os.EX_TEMPFAIL or (not done and stop.code == 2 and not task[1].folder.exists()):
                        raise
                    self.failed[task[1].folder] = stop.line
                done += 1
                tasks.remove(task)
                if task[0] == "train" and not any(job.seed == task[1].seed for _, job in tasks):
                    break  # its seed is evaluated before another is trained
            if tasks and done == before:
                if not waited:
                    print(f"\nwaiting for another process, which is at work on {running} of the parts left", flush=True)
                waited = True
                time.sleep(PAUSE)
        return self.failed

    def to_judge(self, seed: int) -> list[Job]:
        """The trainings of a seed, also the finished ones of rows not asked for: one row more may change the images of all."""
        jobs = self.plan.jobs([seed], every_row=True)
        return [job for job in jobs if job.folder not in self.failed and (job.row in self.plan.wanted or finished(job))]

    def title(self, task: Task) -> str:
        kind, job = task
        return f"{'train and test' if kind == 'train' else 'evaluate'} {self.plan.rows[job.row]['label']}, seed {job.seed}"

    def ready(self, task: Task, tasks: Sequence[Task]) -> bool:
        """Whether all is there that a training starts from."""
        return not any(kind == "train" and other.folder in task[1].needs for kind, other in tasks)

    def held(self, task: Task) -> bool:
        """Whether another process is at work on it."""
        kind, job = task
        return any(locked(path) for path in ([job.folder] if kind == "train" else job.folder.glob("evaluation/*/")))

    def perform(self, task: Task) -> None:
        """Train and test, or evaluate; what is finished is skipped. Raises Stop, and Held where another process was quicker."""
        kind, job = task
        if kind == "train" and (missing := next((need for need in job.needs if need in self.failed), None)) is not None:
            refuse(f"it starts from {short(missing.absolute())}, which could not be trained")
        try:
            if kind == "train":
                train(job, self.jobs[job])
            else:
                judge_all(job, self.plan)
        except WRONG_INPUT as error:  # an evaluation reads all rows' runs of its seed: another's may be the damaged one
            folder = job.folder if kind == "train" else "the folder of that run"
            refuse(re.sub(OTHERWISE, f": remove {folder}, and this command makes it again", str(error)))


def train(job: Job, cfg: DictConfig) -> None:
    """Train and test the run of configuration `cfg`."""
    folder = job.folder.absolute()
    with as_command(job.words):
        if is_finished(folder, resolved(cfg)):
            print("trained and tested before")
            return
        try:
            run(cfg, folder, sweep=True)
        except Stop as stop:
            if isinstance(stop.__cause__, Timeout):
                raise Held from stop
            raise
        gc.collect()  # a Trainer refers to itself, and would hold its memory of the GPU


def render(plan: Plan, to: Path) -> bool:
    """Write and show the report of every finished run of this plan, with the published figures; False where there is none."""
    from fairat_lightning.report import Group, compare, read_run, report_of
    from fairat_lightning.report.published import beside
    from fairat_lightning.report.terminal import show
    from fairat_lightning.report.write import publish

    rows, notes = plan.rows, []
    seeds = sorted({int(part[1]) for path in plan.place.glob("*-s*") if (part := re.search(r"-s(\d+)$", path.name))})
    found: dict[str, list[Job]] = {key: [] for key in rows}
    for job in plan.jobs(seeds, every_row=True):
        if finished(job):
            found[job.row].append(job)
        elif (line := other(job)) is not None:
            notes.append(f"{rows[job.row]['label']}, seed {job.seed}, is left out: {re.sub(OTHERWISE, '', line)}.")
    if not any(found.values()):
        return False
    for line in notes:
        print(line, flush=True)
    groups = []
    for key, jobs in found.items():
        extra = {folder_of_evaluation(words) for words in rows[key].get("extra", {}).get(plan.budget["name"], ())}
        names = {name for name in extra for name in (name, name.replace("-", "-last-", 1))}
        runs = []
        for job in jobs:
            label = f"{rows[key]['label']}, seed {job.seed}"
            try:
                run, more = read_run(job.folder, without=names), extras(job.folder, names, label)
            except (ValueError, KeyError) as error:  # something in its folder is damaged
                notes.append(f"{label}, is left out: {re.sub(OTHERWISE, '', str(error))}.")
                print(notes[-1], flush=True)
                continue
            runs.append(run)
            notes += more
        groups += [Group(rows[key]["label"], runs)] if runs else []
    if not groups:
        return False
    report = report_of(groups)
    report.controls = {row["label"]: [rows[key]["label"] for key in controls(row) if key in rows] for row in rows.values()}
    report.notes += notes
    lines = beside(report, {row["label"]: row.get("published", ()) for row in rows.values()})
    if absent := [rows[key]["label"] for key, jobs in found.items() if not jobs]:
        report.notes.append(f"Not run yet: {', '.join(absent)}.")
    shown = compare.rows(report)
    print()
    show(report, shown, to, publish(report, shown, to, lines), lines)
    return True


def extras(folder: Path, names: set[str], label: str) -> list[str]:
    """One sentence for each further evaluation that is finished."""
    from fairat_lightning.report.runs import SPLITS

    found, half = [], None
    for place in sorted(folder / "evaluation" / name for name in names):
        if (metrics := read_metrics(place)) is not None:
            facts = read_facts(place)
            split = next((name for end, name in SPLITS.items() if place.name.endswith(f"-{end}")), "test")
            images = f"{facts['images']:,} {split} images"
            values = [f"{facts['titles'][key]} {100 * metrics[key]['average']:.1f} %" for key in facts["headline"]]
            found.append(f"{label}, on {images}: {', '.join(values)} right on average.")
            half = half if "apgd" not in metrics else metrics["apgd"]["average"]
            if half is not None and "autoattack" in metrics:
                above = 100 * (half - metrics["autoattack"]["average"])
                found.append(f"{label}: on these images the first half of AutoAttack is {above:.1f} points above the whole.")
    return found
