"""Reproduce a published table: check the settings, run what they ask for (`tables/queue.py`), and show both tables."""

from fairat_lightning.commands.errors import Stop
from fairat_lightning.commands.tables.recipes import OWN, other, parse
from fairat_lightning.config.compose import compose_training
from fairat_lightning.settings import reachable

__all__ = ["OWN", "main"]


def main(words: list[str]) -> None:
    """Run what the settings of the command say; ValueError for wrong ones, SystemExit(1) where a row could not be run."""
    plan = parse(words)
    to = reachable(plan.settings.get("to") or plan.place / "report")
    for key, folder in (("runs", plan.place), ("to", to)):
        if (file := next((place for place in (folder, *folder.parents) if place.exists()), folder)).is_file():
            raise ValueError(f"{file} is a file: set {key}=FOLDER to a folder")
    jobs = {job: compose_training(job.words)[0] for job in plan.jobs()}  # all of them before hours of training
    about = f"budget {plan.budget['name']}: {plan.budget['about']}"
    from fairat_lightning.commands.tables.queue import Queue, render  # torch takes seconds to import
    from fairat_lightning.evaluation import autoattack

    if not plan.wanted:
        if not render(plan, to):
            differing = next(filter(None, map(other, plan.jobs(every_row=True))), None)
            raise Stop(1, differing or f"{plan.place} holds no finished run of this table that can be read")
        return
    if not autoattack.available():
        raise ValueError(autoattack.MISSING)
    print(f"{len(plan.wanted)} rows, {len(jobs)} runs, {about}", flush=True)
    failed = Queue(plan, jobs).run()
    render(plan, to)
    if failed:
        raise Stop(1, "; ".join(f"{folder.name}: {line}" for folder, line in failed.items()))
