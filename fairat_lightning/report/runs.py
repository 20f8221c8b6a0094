"""Folders with figures read back: a run, one evaluation, or an exported network with its card; grouped into rows of seeds.

A run's folder needs one finished part: metrics.json, or evaluation/<name>/metrics.json. Everything else may be missing. Of a
figure that was measured twice under one threat model that of more images is kept, of equally many the lower one, whose attack was
the stronger. An attack under another threat model, and an evaluation of last.ckpt, are kept beside the others, under their own
keys.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairat_lightning.record.attack_titles import TITLES
from fairat_lightning.record.journal import NAME, by_stage
from fairat_lightning.record.reader import (
    Hardest,
    evaluations,
    read_config,
    read_facts,
    read_hardest,
    read_history,
    read_metrics,
    read_verdicts,
)
from fairat_lightning.report.card import is_card, read_card
from fairat_lightning.report.measured import (
    Data,
    Summary,
    Threat,
    bounded,
    check_summary,
    data_of,
    figure_of,
    four_digits,
    pixels_of,
    rank,
    same_set,
    threat_of,
)
from fairat_lightning.report.verdicts import Verdicts, verdicts_of
from fairat_lightning.settings import nearest_path

LAST = "@last"  # behind the key of an attack on the last epoch's weights, where others were kept
LAYOUT = ("titles", "headline", "classes", "curve", "checks", "notes")  # of run.json: said elsewhere in a report


SPLITS = {"train": "training", "val": "validation"}
PLAIN = ("clean", "fgsm", "pgd20", "cw20")  # whose figures are those of one stage


@dataclass
class Run:
    """One folder. `summaries`, `verdicts`, `threats` go by attack; `facts` is run.json, `audits` those of the evaluations.

    `curves` has the keys of a sweep by their eps, one sweep a norm. `part` is the evaluation that was asked for, or empty.
    """

    folder: Path
    summaries: dict[str, Summary] = field(default_factory=dict)
    verdicts: dict[str, Verdicts] = field(default_factory=dict)
    threats: dict[str, Threat | None] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    headline: list[str] = field(default_factory=list)
    curves: dict[str, dict[float, str]] = field(default_factory=dict)
    part: str = ""
    exported: bool = False
    split: str = "test"
    checks: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    audits: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    hardest: Hardest | None = None
    weights: str | None = None
    data: Data | None = None


@dataclass
class Group:
    """A row of the report: the seeds of one configuration."""

    label: str
    runs: list[Run]

    @property
    def images(self) -> str:
        """What its figures are of: "test images", or those of another split."""
        return f"{SPLITS.get(self.runs[0].split, self.runs[0].split)} images"

    def values(self, key: str, figure: str) -> list[float | None]:
        """The figure of each seed, in [0,1]; None where it is missing."""
        return [figure_of(run.summaries.get(key), figure) for run in self.runs]

    def classes(self, key: str) -> list[str]:
        return list(dict.fromkeys(c for run in self.runs for c in run.summaries.get(key, {"per_class": ()})["per_class"]))

    def class_values(self, key: str, name: str) -> list[float]:
        """The accuracy of one class for each seed that has it."""
        found = [run.summaries[key]["per_class"].get(name) for run in self.runs if key in run.summaries]
        return [a for a in found if a is not None]


def read_run(folder: Path, without: Collection[str] = ()) -> Run:
    """Everything in one folder, but the evaluations that `without` names; of an evaluation's folder, that evaluation alone.

    ValueError, one line with the path, if nothing in it is finished or a file is damaged.
    """
    if not folder.is_dir():
        why = "it is a file: name its folder" if folder.exists() else f"there is no such folder{nearest_path(folder)}"
        raise ValueError(f"{folder} holds no finished run: {why}")
    config, facts = read_config(folder), read_facts(folder, missing={})
    if "suite" in facts or {"suite", "checkpoint"} <= (config or {}).keys():
        return _evaluation(folder, facts, config)
    if not (folder / "metrics.json").exists() and not evaluations(folder) and is_card(folder):
        return _exported(folder)
    run = Run(folder, facts=facts, config=config, data=data_of(config))
    _absorb(run, folder, "", run.facts, run.config)
    for place in [place for place in evaluations(folder) if place.name not in without]:
        if (place / "metrics.json").exists():
            facts = run.audits[place.name] = read_facts(place, missing={})
            _absorb(run, place, place.name, facts, read_config(place))
        else:
            run.notes.append(f"The evaluation {place.name} is not finished: its figures are missing.")
    if not run.summaries and (config or facts):
        raise ValueError(_unfinished(folder, facts))
    if not run.summaries:
        raise ValueError(f"{folder} holds no finished run: there is no metrics.json in it")
    if (epoch := run.facts.get("collapsed_epoch")) is not None:
        run.notes.append(
            f"Catastrophic overfitting: the robustness to several steps collapsed in epoch {epoch + 1} (on_collapse)."
        )
    run.history = read_history(folder)
    run.hardest = read_hardest(folder)
    return run


def _evaluation(folder: Path, facts: dict[str, Any], config: dict[str, Any] | None) -> Run:
    """One evaluation, with the configuration and the record of the run it is of, where it lies below one."""
    if not (folder / "metrics.json").exists():
        raise ValueError(_unfinished(folder, facts))
    above = folder.resolve().parent.parent
    below = folder.resolve().parent.name == "evaluation" and (above / "config.yaml").exists()
    run = Run(folder, part=folder.resolve().name, audits={folder.resolve().name: facts})
    if below:
        run.config, run.facts = read_config(above), read_facts(above, missing={})
        if Path(str((config or {}).get("checkpoint"))).name == "last.ckpt":
            run.notes.append(f"Evaluation {run.part} is of the weights of the last epoch.")
    run.split = str((config or {}).get("split", "test"))
    _absorb(run, folder, run.part, facts, config, alone=True)
    return run


def _unfinished(folder: Path, facts: dict[str, Any]) -> str:
    """That a run or an evaluation has no figures yet, and the command that continues it, if its record says."""
    command = f": {' '.join(str(said).split())}" if (said := facts.get("command")) else " the command that began it"
    return f"{folder} is not finished, so that it has no figures yet; continue it with{command}"


def _exported(folder: Path) -> Run:
    """An exported network, from the figures of its card."""
    card = read_card(folder)
    run = Run(folder, exported=True, facts=card.facts, config=card.config)
    run.notes, run.checks = card.notes, [{**check, "suite": ""} for check in card.checks]
    for key, title, written, summary in card.measured:
        check_summary(folder / "README.md", summary)
        threat = threat_of(written)
        here = _add(run, key, "", summary, threat) or key
        run.titles[here] = title
        run.headline += [here] if key in card.headline and here not in run.headline else []
        if key.partition("@")[2] and threat is not None:
            run.curves.setdefault(threat[0], {})[threat[1]] = here
    return run


def _add(run: Run, name: str, last: str, summary: Summary, threat: Threat | None) -> str | None:
    """Take the figures of one attack into `run`; their key, or None where those that are there rank higher."""
    key = name + last
    if key in run.summaries and None not in (threat, before := run.threats[key]) and threat != before:
        assert threat is not None
        key = under(name, threat) + last
    if key in run.summaries and rank(summary) < rank(run.summaries[key]):
        return None
    run.summaries[key], run.threats[key] = summary, threat
    run.verdicts.pop(key, None)
    return key


def under(name: str, threat: Threat) -> str:
    """The key of an attack under another threat model than the first."""
    return f"{name}@{threat[0]}_{threat[1]:.4g}"


def _absorb(
    run: Run, place: Path, suite: str, facts: dict[str, Any], config: dict[str, Any] | None, *, alone: bool = False
) -> None:
    """Add one finished test, the run's own or a later suite, to `run`; one that is `alone` whatever images it has."""
    metrics = read_metrics(place)
    if metrics is None:
        return
    found = read_verdicts(place)
    weights, pixels = found[0].get("weights") if found else None, pixels_of(found[0]) if found else {}
    if not alone and (split := (config or {}).get("split", "test")) != "test":
        run.notes.append(f"Evaluation {suite} is of {split} images, not test images: its figures are left out.")
        return
    data = data_of(config)
    if suite and not alone and data is not None and run.data is not None:
        if not same_set(data, run.data):
            run.notes.append(f"Evaluation {suite} is of another data set than the run's test: its figures are left out.")
            return
        if data[2] != run.data[2]:
            run.notes.append(
                f"Evaluation {suite} read its images from {data[2]}, and the run's test from {run.data[2]}: whether they are the"
                " same images was not checked."
            )
    run.data = run.data or data
    last = LAST if not alone and Path(str((config or {}).get("checkpoint"))).name == "last.ckpt" else ""
    if suite and not last and None not in (weights, run.weights) and weights != run.weights:
        run.notes.append(f"Evaluation {suite} is of other weights than the run's test: its figures are left out.")
        return
    run.weights = run.weights or (None if last else weights)
    stages = {name: Verdicts(i, y, p, pixels) for name, (i, y, p) in by_stage(found[1]).items()} if found else {}
    for summary in metrics.values():
        check_summary(place / "metrics.json", summary)
    try:
        threat = threat_of(facts.get("threat") or (config or {}).get("attack")) if bounded(metrics) else None
        own = {name: threat_of(node) for name, node in (facts.get("threats") or {}).items()}
        curve = facts.get("curve") or {"eps": (), "keys": ()}
        swept = {key: four_digits(eps) for eps, key in zip(curve["eps"], curve["keys"], strict=True) if key in metrics}
        own |= {key: threat and (threat[0], eps) for key, eps in swept.items()}
        keys: dict[str, str] = {}
        for name, summary in metrics.items():
            if (key := _add(run, name, last, summary, None if name == "clean" else own.get(name, threat))) is None:
                continue
            keys[name] = key
            if (verdicts := verdicts_of(name, summary, stages)) is not None:
                run.verdicts[key] = verdicts
            elif found and name in PLAIN:
                run.notes.append(f"{place / NAME} is incomplete: the figures of {key} cannot be computed from it.")
        for name, title in facts.get("titles", {}).items():
            said = f"{TITLES.get(name.partition('@')[0], name)}, {title}" if name in swept and title.startswith("eps") else title
            key = keys.get(name, name + last)
            if name in keys or key not in run.summaries:
                run.titles[key] = f"{said}, last epoch" if last else str(said)
        heads = [keys.get(name, name + last) for name in facts.get("headline", ()) if name in metrics]
        run.headline += [key for key in dict.fromkeys(heads) if key not in run.headline]
        run.checks += [{**check, "suite": suite, "name": str(check["name"])} for check in facts.get("checks", ())]
        run.notes += [f"Evaluation {suite}: {note}" if suite else str(note) for note in facts.get("notes", ())]
        if swept:
            sweep = run.curves.setdefault((threat[0] if threat else "") + last, {})
            sweep.update({eps: keys.get(name, name + last) for name, eps in swept.items()})
    except (TypeError, ValueError, AttributeError, KeyError):
        raise ValueError(f"{place / 'run.json'} is not the record of an evaluation") from None
