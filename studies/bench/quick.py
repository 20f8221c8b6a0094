"""Each goal of the speed of training with the figure that this machine gives: `bench.py --quick`, or `make bench-quick`.

A goal is a line of `GOALS`: what is measured, its limit, and the function that measures it. The function returns the figure, or
why there is none. Every figure is a median or a ratio of medians of sides that were measured in turn.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench import DEVICE, HERE, Side, compare, ours, published, seconds, validation
from rich.console import Console
from rich.table import Table

from fairat_lightning.commands.cli import COMMANDS
from fairat_lightning.running.machine import best_precision

ROUNDS = 3


@dataclass
class Goal:
    """What is to hold; `measure` returns the figure, that of the record and how to measure it, or why there is none."""

    part: str
    name: str
    limit: str  # "at least 5", "at most 1.3"
    measure: Callable[[], float | tuple[float, str] | str]

    def row(self) -> dict[str, Any]:
        figure = self.measure()
        row = {"part": self.part, "name": self.name, "goal": self.limit}
        if isinstance(figure, str):
            return {**row, "not_run": figure}
        if isinstance(figure, tuple):
            figure, row["recorded"] = figure
        at, kind, number = self.limit.split()
        assert at == "at" and kind in ("least", "most"), self.limit
        return {**row, "figure": figure, "met": figure >= float(number) if kind == "least" else figure <= float(number)}


def ratio(above: list[float], below: list[float]) -> float:
    return median(above) / median(below)


def faal_step() -> float | str:
    """Seconds of published FAAL's step divided by ours: PreAct ResNet-18, batch of 24; part a has the usual 128."""
    o = argparse.Namespace(width=64, batch_size=24)
    theirs = Side(published("faal", o))
    if theirs.missing:
        return theirs.missing
    mine = Side(ours(o=o, method="faal"))
    answers = compare({"theirs": theirs, "mine": mine}, 2)
    for side in (theirs, mine):
        side.close()
    return ratio(seconds(answers["theirs"]), seconds(answers["mine"]))


def validating(attack: str) -> float:
    """Seconds of validating after an epoch divided by those of training for it."""
    return ratio(*validation(attack, argparse.Namespace(width=32, batch_size=32, rounds=1)))


def recorded(part: str, words: str, key: str = "ratio", unit: float = 1) -> tuple[float, str] | str:
    """What the record of the whole benchmark has for a goal that takes minutes, and how to measure it here."""
    path = HERE.parents[1] / "results" / f"bench-{DEVICE}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    found = [row[key] / unit for row in rows if row["part"] == part and words in row["name"]]
    here = f"bench.py --parts {part} takes minutes"
    return (found[0], here) if found else here


def start_up(rounds: int = ROUNDS) -> tuple[list[float], list[float]]:
    """Start-up to the first training step and `import torch, lightning`, in turn: the processor's seconds, which other work on
    the machine disturbs little. Neither side counts the end of its process.
    """
    command, base = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            words = ["data=digits", "trainer.max_epochs=1", f"hydra.run.dir={place}/run"]
            ends = ["callbacks=[first_step.FirstStep]", "allow=[first_step.]"]
            command.append(taken(["-m", "fairat_lightning", *words, *ends])[1])
        base.append(taken(["-c", "import os, torch, lightning; os._exit(0)"])[1])
    return command, base


def slowest_help() -> float:
    """The median seconds of `--help` of the command that is slowest to answer."""
    modules = ["fairat_lightning", *(f"fairat_lightning.{name}" for name in COMMANDS if name != "train")]
    return max(median(taken(["-m", module, "--help"])[0] for _ in range(ROUNDS)) for module in modules)


def taken(words: list[str]) -> tuple[float, float]:
    """Seconds of a Python process with these words: of the clock, and of the processor."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))}
    began, used = time.perf_counter(), processor()
    subprocess.run([sys.executable, *words], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, processor() - used


def processor() -> float:
    """Seconds that the processes which have been started and have ended took of the processor."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


FAAL = "at least 5" if best_precision("auto") == "bf16-mixed" else "at least 1.4"
GOALS = [
    Goal("a", "FAAL's step, published / ours", FAAL, faal_step),
    Goal("j", "validation / an epoch of training, N-FGSM", "at most 0.10", lambda: validating("n_fgsm")),
    Goal("j", "validation / an epoch of training, PGD-10", "at most 0.05", lambda: validating("pgd10")),
    Goal("k", "evaluate: one process / devices=2", "at least 1.8", lambda: recorded("k", "first batch")),
    Goal("m", "200,000 images, a step: from a file / from memory", "at most 1.05", lambda: recorded("m", "a step")),
    Goal("m", "their memory from a file, GB above few images'", "at most 1", lambda: recorded("m", "RssAnon", "bytes_file", 1e9)),
    Goal("l", "start-up to the first training step / import torch, lightning", "at most 1.3", lambda: ratio(*start_up())),
    Goal("l", "seconds of --help, the slowest command", "at most 1", slowest_help),
]


def run_quick() -> list[dict[str, Any]]:
    """Measure every goal and print it as it is known."""
    rows = []
    before = time.perf_counter()
    for goal in GOALS:
        rows.append(goal.row())
        print(f"{rows[-1]['part']}  {rows[-1]['name']}: {said(rows[-1])}", flush=True)
    table = Table("", "", "goal", "figure", "", title=f"Goals, {time.perf_counter() - before:.0f} s", title_justify="left")
    for row in rows:
        figure = f"{row['figure']:.3g}" if "figure" in row else "–"
        table.add_row(row["part"], row["name"], row["goal"], figure, verdict(row))
    Console().print(table)
    return rows


def said(row: dict[str, Any]) -> str:
    if "not_run" in row:
        return f"not run: {row['not_run']}"
    return f"{row['figure']:.3g}, {verdict(row)}{'; here: ' + row['recorded'] if 'recorded' in row else ''}"


def verdict(row: dict[str, Any]) -> str:
    if "not_run" in row:
        return "not run"
    return ("met" if row["met"] else "not met") + " in the record" * ("recorded" in row)
