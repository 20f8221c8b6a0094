"""What an evaluation found, as an object: read from a folder that holds its record, or kept in memory until it is saved."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from fairat_lightning.record.attack_titles import TITLES
from fairat_lightning.record.journal import NAME
from fairat_lightning.record.reader import read_facts, read_metrics
from fairat_lightning.report import class_table

FINISHED = "metrics.json"
RECORD = (FINISHED, "config.yaml", "run.json", NAME, "classes.png", "history.csv", "hardest.npz")


@dataclass(repr=False)
class Result:
    """Accuracies in [0,1], class by class, of each attack: `metrics[attack]["per_class"]`.

    `facts` is what run.json says; `titles` names the attacks for a reader. `repr` is the table.
    """

    metrics: dict[str, dict[str, Any]]
    facts: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    folder: Path | None = None

    @classmethod
    def read(cls, folder: str | Path, *, in_memory: bool = False) -> "Result":
        """The result of a finished run or evaluation in `folder`; ValueError where there is none."""
        place = Path(folder).expanduser()
        if (metrics := read_metrics(place)) is None:
            raise ValueError(f"{place} holds no finished run or evaluation: there is no metrics.json in it")
        files = {name: (place / name).read_bytes() for name in RECORD if (place / name).is_file()} if in_memory else {}
        return cls(metrics, read_facts(place, {}), files, None if in_memory else place)

    @property
    def classes(self) -> list[str]:
        return list(next(iter(self.metrics.values()))["per_class"])

    @property
    def worst(self) -> dict[str, float]:
        """The accuracy of the worst class under each attack."""
        return {key: found["worst"] for key, found in self.metrics.items()}

    @property
    def average(self) -> dict[str, float]:
        """The average of the class accuracies under each attack."""
        return {key: found["average"] for key, found in self.metrics.items()}

    @property
    def intervals(self) -> dict[str, dict[str, list[float]]]:
        """The 95 % intervals of "average" and "worst" under each attack (`bootstrap.py`)."""
        return {key: found["interval"] for key, found in self.metrics.items() if "interval" in found}

    @property
    def titles(self) -> dict[str, str]:
        return {key: self.facts.get("titles", {}).get(key, TITLES.get(key, key)) for key in self.metrics}

    @property
    def notes(self) -> list[str]:
        """The notes of the evaluation, which a reader must know."""
        failed = [check for check in self.facts.get("checks", []) if check.get("passed") is False]
        return [*(f"FAILED {check['name']}: {check['detail']}" for check in failed), *self.facts.get("notes", [])]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The metrics as plain dictionaries, lists and numbers."""
        return self.metrics

    def to_pandas(self) -> Any:
        """A DataFrame: a row a class, then "average" and "worst class"; a column an attack, accuracies in [0,1]."""
        try:
            import pandas
        except ModuleNotFoundError:
            raise ValueError("to_pandas() needs pandas: pip install pandas") from None
        columns = {
            key: {**found["per_class"], "average": found["average"], "worst class": found["worst"]}
            for key, found in self.metrics.items()
        }
        return pandas.DataFrame(columns)

    def save(self, folder: str | Path) -> Path:
        """Write the record into `folder`, which `report` reads; ValueError where other files, or a command's record, are in it.

        An earlier result of `benchmark` is replaced, so that a notebook can be run again.
        """
        place = Path(folder).expanduser()
        if self.folder is not None and place.resolve() == self.folder.resolve():
            return place
        if place.is_file() or (place.is_dir() and {path.name for path in place.iterdir()} - set(RECORD)):
            raise ValueError(f"{place} exists and holds something else: name a new folder")
        mine = {name: content for name in RECORD if (content := self._file(name)) is not None}
        if read_facts(place, {}).get("command") not in (None, self.facts.get("command")):
            raise ValueError(f"{place} holds the record of another command: name a new folder")
        place.mkdir(parents=True, exist_ok=True)
        for name in RECORD:
            (place / name).unlink(missing_ok=True)
        for name in sorted(mine, key=lambda name: name == FINISHED):  # the file that says that all is there comes last
            (place / name).write_bytes(mine[name])
        return place

    def _file(self, name: str) -> bytes | None:
        if self.folder is None or name in self.files:
            return self.files.get(name)
        return (self.folder / name).read_bytes() if (self.folder / name).is_file() else None

    def __repr__(self) -> str:
        shown = io.StringIO()
        known = self.facts.get("headline") or list(self.metrics)
        Console(file=shown, width=100, color_system=None, force_jupyter=False).print(
            class_table({"": self.metrics}, known, self.titles)
        )
        lines = [line.rstrip() for line in shown.getvalue().splitlines()]
        return "\n".join([*(line for line in lines if line), *self.notes])
