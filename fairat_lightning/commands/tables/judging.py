"""The evaluations of a table's trainings, all rows of a seed on the same images, so that they can be paired."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from statistics import mean

from omegaconf import OmegaConf

from fairat_lightning.commands import evaluate
from fairat_lightning.commands.errors import refuse
from fairat_lightning.commands.tables.recipes import Job, Plan, Words, finished, folder_of_evaluation, other
from fairat_lightning.config.compose import WRONG_INPUT, compose_training
from fairat_lightning.config.words import parse_word
from fairat_lightning.evaluation.run import Busy
from fairat_lightning.record.identity import EVALUATION_ADDED
from fairat_lightning.record.reader import kept_epoch, read_config, read_facts, read_metrics

IMAGES = ("in_full", "classes")
# The advice at the end of a message that does not apply here.
OTHERWISE = r"(; to continue it: .*|; for a new run choose another.*|[:;] (choose another|set overwrite=true).*)"


class Held(Exception):
    """Another process is at work on this training or evaluation."""


def judge_all(job: Job, plan: Plan) -> None:
    """Every evaluation of a finished training, on images that are the same for all rows of its seed.

    Raises Stop for one with other settings, and Held where another process is at work on it.
    """
    weak, kept = weak_classes(plan, job.seed), compose_training(job.words, say=False)[0].select
    for words in plan.evaluations(job, kept, weak):
        place = job.folder / "evaluation" / folder_of_evaluation(words)
        differing = differs(place, words)
        if differing == [] and read_metrics(place) is not None:
            print(f"evaluated by {folder_of_evaluation(words)} before")
            continue
        other_images = bool(differing) and set(differing) <= set(IMAGES)
        chosen = any(word.startswith(tuple(f"{key}=" for key in IMAGES)) for word in words)
        if chosen and (line := next(filter(None, map(other, plan.jobs([job.seed], every_row=True))), None)):
            refuse(f"the images of all rows of seed {job.seed} are chosen together, but {line}")
        with as_command((*words, "overwrite=true") if other_images else words):
            try:
                evaluate.main([*words, "overwrite=true"] if other_images else list(words))
            except Busy as error:
                raise Held from error
            except WRONG_INPUT as error:
                refuse(re.sub(OTHERWISE, f": remove {place}, and this command makes it again", str(error)))


@contextmanager
def as_command(words: Sequence[str]) -> Iterator[None]:
    """Let the records hold the command of their own run, so that anybody can run it again."""
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before


def differs(place: Path, words: Words) -> list[str]:
    """The keys in which the evaluation at `place` differs from the one that `words` ask for; empty where there is none."""
    if (found := read_config(place)) is None:
        return list(IMAGES) if read_metrics(place) is not None else []  # whose figures these are is not known
    config = OmegaConf.create(found)
    asked = {str(o.key_or_group): o.value() for o in map(parse_word, words[1:])}
    asked["suite.suite"] = asked.pop("suite")
    asked.pop("data.root", None)  # the same images
    return [key for key, value in asked.items() if OmegaConf.select(config, key, default=EVALUATION_ADDED.get(key)) != value]


def weak_classes(plan: Plan, seed: int) -> list[str]:
    """The classes of which all rows of a seed are evaluated on more images, or alone: by validation, in the classes' order."""
    folders = [job.folder for job in plan.jobs([seed], every_row=True) if finished(job)]
    count, alone = plan.budget.get("weakest"), plan.budget.get("only_weakest")
    if alone:
        accuracies = [validation_accuracy(folder) for folder in folders]
        means = {name: mean(found.get(name, 0.0) for found in accuracies) for name in accuracies[0]}
        chosen = set(sorted(means, key=means.__getitem__)[:alone])
    else:
        chosen = {name for folder in folders for name in lowest_on_validation(folder, count or 0)}
    order = (read_metrics(folders[0]) or {})["clean"]["per_class"] if folders else ()
    return [name for name in order if name in chosen]


def lowest_on_validation(folder: Path, count: int) -> list[str]:
    """The `count` classes with the lowest robust accuracy on validation in the epoch that a run has kept, weakest first."""
    found = validation_accuracy(folder)
    return sorted(found, key=found.__getitem__)[:count]


def validation_accuracy(folder: Path) -> dict[str, float]:
    """Each class's robust accuracy on validation in the epoch that a run has kept, in [0,1]."""
    facts, prefix = read_facts(folder), "val/robust_class/"
    if "head" in facts:  # balanced after the last epoch
        return {name: value for name, value in facts["head"]["robust_class"].items() if value is not None}
    if not (row := kept_epoch(folder)):
        raise ValueError(f"{folder / 'history.csv'} is damaged: it has no line of the epoch that was kept")
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix) and not isnan(value)}
