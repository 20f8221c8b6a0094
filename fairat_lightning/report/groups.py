"""Which runs make one row, what the row is called, and what of it can be compared with the others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairat_lightning.record.attack_titles import TITLES
from fairat_lightning.report.columns import apart, elsewhere, fill, in_order, own_eps, short
from fairat_lightning.report.configurations import by_origin, configuration, labels_of
from fairat_lightning.report.folders import runs_in, split
from fairat_lightning.report.measured import images, of_all_classes
from fairat_lightning.report.runs import Group, Run, read_run

STRONGEST = ("autoattack", "apgd", "pgd20")
MANY = 20  # classes: of more of them the lowest is mostly the one with the least luck
LOWEST = {"worst": "worst class", "worst_10_percent": "worst 10 % of the classes"}


@dataclass
class Report:
    """The rows in the order of the command, and the attacks: `keys` those worth a column, `main` the one that figures show.

    `titles` say an attack in full, `heads` as short as the head of a column; `swept` are the keys of a sweep over eps, and
    `others` those of `keys` that go to a second table: an attack under another eps than in training.
    """

    groups: list[Group]
    titles: dict[str, str]
    heads: dict[str, str]
    swept: list[str]
    others: list[str]
    keys: list[str]
    main: str
    notes: list[str]
    checks: list[dict[str, Any]]
    controls: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by label; empty: the first row is everyone's

    def controls_of(self, group: Group, most: int | None = None) -> list[Group]:
        """The rows of this report among the first `most` controls of `group`; without `most` among all."""
        if not self.controls:
            return self.groups[:1] if group is not self.groups[0] else []
        named = self.controls.get(group.label, ())[:most]
        return [other for label in named for other in self.groups if other.label == label]

    def baseline(self, group: Group) -> Group | None:
        """The first control of `group`; None where it has none or that is not in the report."""
        return next(iter(self.controls_of(group, most=1)), None)

    @property
    def lowest(self) -> str:
        """The figure of the weakest classes, one of LOWEST."""
        return lowest(self.groups, self.main)

    @property
    def seeds(self) -> bool:
        """Whether any row is of several runs."""
        return any(len(group.runs) > 1 for group in self.groups)

    @property
    def images(self) -> str:
        """What the figures are of: "test images", or those of another split."""
        return self.groups[0].images

    @property
    def kinds(self) -> list[bool]:
        """Which rows there are: of several runs, of one run."""
        return sorted({len(group.runs) > 1 for group in self.groups}, reverse=True)

    @property
    def sweeps(self) -> list[str]:
        """The sweeps over eps that any row has, by norm."""
        return list(dict.fromkeys(name for group in self.groups for run in group.runs for name in run.curves))

    @property
    def robust(self) -> list[str]:
        return [key for key in self.keys if key != "clean"]

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [check for check in self.checks if check.get("passed") is False]


def gather(words: Sequence[str]) -> Report:
    """The report of the folders in `words`, each "FOLDER" or "LABEL=FOLDER". ValueError, one line, for what cannot be read.

    Runs of one label are seeds of one row. Without labels, so are runs whose configurations differ only in the seed, and those of
    the networks they started from or learned from too. A folder that is not a run means all finished runs or evaluations in it.
    """
    named: list[tuple[str | None, Run]] = []
    seen: dict[Path, str] = {}
    unfinished: list[Path] = []
    for word in words:
        label, folder = split(word)
        found, waiting = runs_in(folder)
        unfinished += waiting
        for place in found:
            if place.resolve() in seen:
                raise ValueError(f"{word} names the same folder as {seen[place.resolve()]}: name each run only once")
            seen[place.resolve()] = word
        runs = [read_run(place) for place in found]
        if label is not None and (len({_fingerprint(run) for run in runs}) > 1 or len(by_origin(runs)) > 1):
            raise ValueError(f"{word} names runs of several configurations: name each of them separately, or give no label")
        named += [(label, run) for run in runs]
    if not named:
        raise ValueError(f"{' '.join(words)}: this is a file that Hydra wrote and not a run: name the folders beside it")
    if len(splits := {run.split: run.folder for _, run in named}) > 1:
        said = ", ".join(f"{folder} has figures of {split} images" for split, folder in splits.items())
        raise ValueError(f"a report compares figures of the same split, but {said}: name runs and evaluations of one split")
    keyed: dict[Any, list[Run]] = {}
    for label, run in named:
        key = ("label", label) if label is not None else ("configuration", _fingerprint(run))
        keyed.setdefault(key, []).append(run)
    for name, runs in ((key[1], runs) for key, runs in keyed.items() if key[0] == "label"):
        if any(not alike(Group(name, runs[:1]), Group(name, [run])) for run in runs):
            raise ValueError(f"the runs of {name} have different classes: give those of the same classes a label of their own")
    chosen = {key[1] for key in keyed if key[0] == "label"}
    rows = [(key, part) for key, runs in keyed.items() for part in ([runs] if key[0] == "label" else by_origin(runs))]
    names = iter(labels_of([runs for key, runs in rows if key[0] != "label"], taken=chosen))
    report = report_of([Group(key[1] if key[0] == "label" else next(names), runs) for key, runs in rows])
    report.notes += [f"{place} is not finished, and is left out." for place in unfinished]
    return report


def report_of(groups: list[Group]) -> Report:
    """What the rows have in common."""
    runs = [run for group in groups for run in group.runs]
    several = apart(runs)
    fill(runs)
    present = list(dict.fromkeys(key for run in runs for key in run.summaries))
    swept = list(dict.fromkeys(key for run in runs for curve in run.curves.values() for _, key in sorted(curve.items())))
    usual = [key for key in present if key.partition("@")[0] in ("pgd20", "cw20") and key not in swept]
    asked = [*usual, *(key for run in runs for key in run.headline if key in present)]
    alone = [key for run in runs if (key := own_eps(run))]  # the eps of a sweep, where there is nothing else
    columns = in_order(asked or alone, runs) or present
    keys = list(dict.fromkeys(key for key in ("clean", *columns) if key in present))
    titles = {key: TITLES.get(key.partition("@")[0], key) for key in present}
    titles |= {key: title for run in runs for key, title in run.titles.items()}
    met = [titles[key] for key in keys if key in several]
    titles |= {key: f"{titles[key]}, {words}" for key, words in several.items() if key in titles}
    shared = [key for key in keys if key != "clean" and all(group.classes(key) for group in groups)]
    robust = shared or [key for key in keys if key != "clean"]
    whole = [key for key in robust if all(of_all_classes(run.summaries.get(key)) for run in runs)] or robust
    main = next((key for key in STRONGEST if key in whole), (whole or keys)[0])
    others = [key for key in elsewhere(keys, runs) if key != main]
    notes = _other_classes(groups)
    notes += [f"Measured under several threat models, with columns for each: {', '.join(dict.fromkeys(met))}."] if met else []
    notes += _notes(groups, keys, titles)
    return Report(groups, titles, short(titles, keys), swept, others, keys, main, notes, _checks(groups))


def lowest(groups: Sequence[Group], key: str) -> str:
    """The class with the lowest accuracy; of more than MANY classes, where it is known, the mean of the lowest tenth."""
    having = [group for group in groups if group.classes(key)]
    known = all(any(value is not None for value in group.values(key, "worst_10_percent")) for group in having)
    return "worst_10_percent" if known and any(len(group.classes(key)) > MANY for group in having) else "worst"


def comparable(a: Group, b: Group, key: str) -> bool:
    """Whether all runs of both rows met one attack under one threat model, as far as they say."""
    runs = [run for group in (a, b) for run in group.runs if key in run.summaries]
    threats, attacks = ({of(run).get(key) for run in runs} - {None} for of in (lambda run: run.threats, lambda run: run.titles))
    return len(threats) <= 1 and len(attacks) <= 1


def alike(a: Group, b: Group) -> bool:
    """Whether both rows have the same classes, in whatever they met."""
    mine, other = ({c for run in group.runs for s in run.summaries.values() for c in s["per_class"]} for group in (a, b))
    return mine == other


def _fingerprint(run: Run) -> Any:
    """Equal for seeds of one configuration and evaluation name; a folder without a configuration is a row of its own."""
    if not run.config:
        return run.folder.resolve()
    return json.dumps([configuration(run.config), run.part, run.exported], sort_keys=True, default=str)


def _other_classes(groups: Sequence[Group]) -> list[str]:
    """One sentence where not all rows have the classes of the first."""
    others = [group.label for group in groups[1:] if not alike(groups[0], group)]
    what = f"{'have' if len(others) > 1 else 'has'} other classes than {groups[0].label}"
    return [f"{', '.join(others)} {what}: figures of different classes are not compared."] if others else []


def _notes(groups: Sequence[Group], keys: Sequence[str], titles: Mapping[str, str]) -> list[str]:
    """What a reader must know before comparing the rows; what holds for one row only names it."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for run in group.runs:
            for note in run.notes:
                found.setdefault(note, []).append(group.label)
        seeds = [run.facts["seed"] for run in group.runs if "seed" in run.facts]
        if len(seeds) != len(set(seeds)):
            found.setdefault("Two runs have the same seed, so that the runs are not independent.", []).append(group.label)
    notes = [
        note if len(set(labels)) == len(groups) else f"{', '.join(dict.fromkeys(labels))}: {note}"
        for note, labels in found.items()
    ]
    sizes: dict[tuple[int, int], list[str]] = {}
    for key in keys:
        with_key = [group for group in groups if group.classes(key)]
        if len(named := {run.titles.get(key) for g in with_key for run in g.runs if key in run.summaries} - {None}) > 1:
            notes.append(f"One column holds figures of several attacks: {', '.join(sorted(map(str, named)))}.")
        for group in with_key:
            if (having := sum(key in run.summaries for run in group.runs)) < len(group.runs):
                alone = ", whose own interval is in its brackets" if having == 1 else ""
                notes.append(f"{group.label}: {titles[key]} was measured in {having} of its {len(group.runs)} runs{alone}.")
        compared = [run for g in with_key if alike(groups[0], g) for run in g.runs if key in run.summaries]
        if len(found_images := {images(run.summaries[key]) for run in compared} - {0}) > 1:
            sizes.setdefault((min(found_images), max(found_images)), []).append(titles[key])
    for (few, many), tests in sizes.items():
        was = "was" if len(tests) == 1 else "were"
        notes.append(f"{', '.join(tests)} {was} measured on {few} images in some runs and on {many} in others.")
    return notes


def _checks(groups: Sequence[Group]) -> list[dict[str, Any]]:
    runs = [(group.label, run) for group in groups for run in group.runs]
    return [{"label": label, "run": str(run.folder), **check} for label, run in runs for check in run.checks]
