"""The tables of `reproduce`: which trainings a table and budget consist of, and which evaluations each has.

Rows and budgets are data, `tables/*.yaml`; `tables/budgets.yaml` says what their keys mean.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from fairat_lightning.config.compose import compose_training, resolved
from fairat_lightning.config.words import parse_word
from fairat_lightning.record import writer as record
from fairat_lightning.record.reader import read_config
from fairat_lightning.settings import different, one_of, reachable, seed_list

TABLES = Path(__file__).resolve().parent
OWN = ("table", "budget", "seeds", "rows", "runs", "to")
FIXED = (
    *("seed", "overwrite", "init_from", "method.teacher", "hydra.run.dir"),
    *("experiment", "method", "objective", "awp", "averaging", "head"),
)  # by the rows
Row = Mapping[str, Any]
Words = tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One training: its row and seed, the settings of its command, and the folders it starts from."""

    row: str
    seed: int
    folder: Path
    words: Words
    needs: tuple[Path, ...]


@dataclass(frozen=True)
class Plan:
    """What the settings of a command ask for.

    All `rows` of the table and which are `wanted`, the budget, the command's own settings, and the overrides of every training.
    """

    rows: Mapping[str, Row]
    wanted: frozenset[str]
    budget: Mapping[str, Any]
    settings: Mapping[str, Any]
    rest: Sequence[str]

    @property
    def place(self) -> Path:
        """The folder of the runs; those of another width of the network have one of their own."""
        above = reachable(self.settings.get("runs") or Path("runs") / "reproduce")
        asked, usual = (_width(words) for words in (self.rest, self.budget["words"]))
        other = "" if asked in (None, usual) else f"-width{asked}"
        return above / f"{self.settings['table']}-{self.budget['name']}{other}"

    def jobs(self, seeds: Sequence[int] | None = None, *, every_row: bool = False) -> list[Job]:
        """Every training in order, for one seed after the other. Of several settings for one key the last counts: `rest` last."""
        found = []
        for seed in self.settings.get("seeds", self.budget["seeds"]) if seeds is None else seeds:
            for name, row in self.rows.items():
                if (every_row or name in self.wanted) and seed in row.get("seeds", {}).get(self.budget["name"], (seed,)):
                    found.append(self._job(name, row, seed))
        return found

    def _job(self, name: str, row: Row, seed: int) -> Job:
        budget = self.budget
        own = budget["finetune" if "base" in row else "scratch"]
        words = [*row["words"], *budget["words"], *own, *row.get(budget["name"], ()), *self.rest]
        needs, folder = [], self.place / f"{name}-s{seed}"
        for key, word in (("base", "init_from"), ("teacher", "method.teacher")):
            if key in row:
                needs.append(self.place / f"{row[key]}-s{seed}")
                words.append(f"{word}={quoted(as_begun(folder, word, needs[-1]))}")
        words += [f"seed={seed}", f"hydra.run.dir={quoted(folder)}"]
        last = {word.lstrip("+~").partition("=")[0]: word for word in words}
        return Job(name, seed, folder, tuple(last.values()), tuple(needs))

    def evaluations(self, job: Job, kept: str, weak: Sequence[str]) -> list[Words]:
        """The settings of every evaluation of a finished training, `kept` its `select`; `weak` are the classes of the images."""
        budget, row = self.budget, self.rows[job.row]
        own = row.get("evaluate", {}).get(budget["name"])
        run, last = (f"checkpoint={quoted(job.folder / part)}" for part in ("", "checkpoints/last.ckpt"))
        other = kept != "last" and budget.get("last_epoch", False)
        found: list[Words] = []
        if (words := budget["evaluate"] if own is None else own) is not False:
            names = ",".join(quoted(name, always=True) for name in weak)
            key = "in_full" if budget.get("weakest") else "classes"
            words = (*words, f"{key}=[{names}]") if own is None and weak else tuple(words)
            found += [(run, *words)] + [(last, "suite=quick"), (last, *words)] * other
        if job.seed == budget["seeds"][0]:
            found += [(last if kept != "last" else run, *extra) for extra in row.get("extra", {}).get(budget["name"], ())]
        lies = [word for word in self.rest if word.startswith("data.root=")]  # here; the runs may be of another machine
        return [(*words, *lies) for words in found]


def parse(words: Sequence[str]) -> Plan:
    """The plan that the settings of a command ask for; ValueError for wrong ones."""
    overrides = [parse_word(word) for word in words]
    keys = {str(o.key_or_group): o for o in overrides}
    if taken := next((key for key in FIXED if key in keys), None):
        raise ValueError(f"{taken} cannot be set here, because each row sets it; seeds=[0,1,2] chooses the seeds")
    settings: dict[str, Any] = {}
    for key in OWN:
        if key in keys:
            value = keys[key].value()
            settings[key] = OmegaConf.to_object(OmegaConf.create(value)) if isinstance(value, list) else value
    tables = sorted(path.stem for path in TABLES.glob("*.yaml") if path.stem != "budgets")
    budgets = yaml.safe_load((TABLES / "budgets.yaml").read_text())
    if "table" not in settings:
        raise ValueError(f"table= is missing: choose one of {', '.join(tables)}")
    for key, known in (("table", tables), ("budget", list(budgets))):
        one_of(key, settings.setdefault(key, "smoke"), known)
    if "seeds" in settings:
        seed_list(settings["seeds"])
    if settings.get("rows", []) != []:  # an empty list asks for the report alone
        different("rows", settings["rows"], str, "[pgd_at,faal]")
    for key in ("to", "runs"):
        if key in settings and (not isinstance(settings[key], str) or not settings[key]):
            raise ValueError(f"{key}={settings[key]} must be a path")
    name = settings["budget"]
    rows = yaml.safe_load((TABLES / f"{settings['table']}.yaml").read_text())
    rows = {key: row for key, row in rows.items() if name in row.get("budgets", budgets)}
    if unknown := next((key for key in settings.get("rows", ()) if key not in rows), None):
        raise ValueError(f"rows={unknown} is unknown: the rows of table={settings['table']} budget={name} are {', '.join(rows)}")
    wanted = set(settings.get("rows", rows))
    for key in reversed(rows):  # what a row starts from comes before it
        if key in wanted:
            wanted |= {*controls(rows[key])[:1], *(rows[key][of] for of in ("base", "teacher") if of in rows[key])}
    budget = budgets[name] | budgets[name].get("tables", {}).get(settings["table"], {})
    seeds = settings.get("seeds", budget["seeds"])
    for key in settings.get("rows", ()):
        if not {*seeds} & {*(own := rows[key].get("seeds", {}).get(name, seeds))}:
            raise ValueError(f"rows={key} is trained with seeds={own} alone in budget={name}, and seeds={seeds} asks for others")
    rest = [str(o.input_line) for o in overrides if o.key_or_group not in OWN]
    return Plan(rows, frozenset(wanted), {"name": name, **budget}, settings, rest)


def controls(row: Row) -> list[str]:
    """The rows that a row is compared with: those that `over` names, or its base."""
    found = row.get("over", row.get("base", []))
    return [found] if isinstance(found, str) else list(found)


def as_begun(folder: Path, key: str, run: Path) -> str:
    """The path by which the run in `folder`, if there is one, began from `run` of its table: the folder may be moved since."""
    with suppress(ValueError):  # of a damaged one, which is refused where it is run
        there = OmegaConf.select(OmegaConf.create(read_config(folder) or {}), key)
        if isinstance(there, str) and Path(there).parts[-2:] == run.absolute().parts[-2:]:
            return there
    return str(run)


def finished(job: Job) -> bool:
    """Whether the training is finished, and is the one that the job asks for."""
    try:
        return _checked(job)
    except ValueError:  # with other settings
        return False


def other(job: Job) -> str | None:
    """How the run in the job's folder differs from what the job asks for; None where it does not."""
    try:
        _checked(job)
    except ValueError as error:
        return str(error)
    return None


def _checked(job: Job) -> bool:
    if not job.folder.exists():
        return False  # composing its settings takes longer, and a table has dozens of rows
    cfg, folder = compose_training(job.words, say=False)
    return record.is_finished(folder, resolved(cfg))


def _width(words: Sequence[str]) -> Any:
    """The network's width that the settings give; None where they give none."""
    found = [o.value() for o in map(parse_word, words) if o.key_or_group == "model.width"]
    return found[-1] if found else None


def quoted(value: str | Path, *, always: bool = False) -> str:
    """A value as an override holds it: in quotes where Hydra's grammar asks for them."""
    text = str(value)
    return text if not always and re.fullmatch(r"[\w./-]+", text) else "'" + text.replace("'", "\\'") + "'"


def folder_of_evaluation(words: Sequence[str]) -> str:
    """The folder that an evaluation with these settings goes to, below a run's evaluation/."""
    given = dict(word.split("=", 1) for word in words)
    checkpoint = Path(given.get("checkpoint", "").strip("'"))
    return record.evaluation_name(given.get("name"), given["suite"], checkpoint, given.get("split", "test"))
