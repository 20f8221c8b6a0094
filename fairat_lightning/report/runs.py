"""Run folders read back: the run's own test, later evaluations, history and images, grouped into rows of seeds.

A folder needs one finished part: metrics.json, or evaluation/<name>/metrics.json. Everything else may be missing. Where a
figure was measured twice, the evaluation is kept if it saw at least as many images under the same threat model. An evaluation of
last.ckpt stands beside the others, under keys of its own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

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
from fairat_lightning.report.verdicts import Verdicts, verdicts_of
from fairat_lightning.settings import nearest_path

LAST = "@last"  # behind the key of an attack on the last epoch's weights, where others were kept
LAYOUT = ("titles", "headline", "classes", "curve", "checks", "notes")  # of run.json: said elsewhere in a report
Summary = Mapping[str, Any]


PLAIN = ("clean", "fgsm", "pgd20", "cw20")  # whose figures are those of one stage


@dataclass
class Run:
    """One folder. `summaries`, `verdicts`, `threats` go by attack; `facts` is run.json, `audits` those of the evaluations."""

    folder: Path
    summaries: dict[str, Summary] = field(default_factory=dict)
    verdicts: dict[str, Verdicts] = field(default_factory=dict)
    threats: dict[str, tuple[str, float] | None] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    headline: list[str] = field(default_factory=list)
    curve: tuple[list[float], list[str]] | None = None
    checks: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    audits: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    hardest: Hardest | None = None
    weights: str | None = None


@dataclass
class Group:
    """A row of the report: the seeds of one configuration."""

    label: str
    runs: list[Run]

    def values(self, key: str, figure: str) -> list[float | None]:
        """The figure of each seed, in [0,1]; None where it is missing."""
        found = [run.summaries.get(key, {}) for run in self.runs]
        return [s.get("figures", {}).get(figure, s.get(figure)) for s in found]

    def classes(self, key: str) -> list[str]:
        return list(dict.fromkeys(c for run in self.runs for c in run.summaries.get(key, {"per_class": ()})["per_class"]))

    def class_values(self, key: str, name: str) -> list[float]:
        """The accuracy of one class for each seed that has it."""
        found = [run.summaries[key]["per_class"].get(name) for run in self.runs if key in run.summaries]
        return [a for a in found if a is not None]


def read_run(folder: Path, without: Collection[str] = ()) -> Run:
    """Everything in one folder, but the evaluations that `without` names.

    ValueError, one line with the path, if nothing in it is finished or a file is damaged.
    """
    run = Run(folder)
    run.config = read_config(folder)
    run.facts = read_facts(folder, missing={})
    _absorb(run, folder, "", run.facts, run.config)
    for place in [place for place in evaluations(folder) if place.name not in without]:
        if (place / "metrics.json").exists():
            facts = run.audits[place.name] = read_facts(place, missing={})
            _absorb(run, place, place.name, facts, read_config(place))
        else:
            run.notes.append(f"The evaluation {place.name} has begun and is not finished: its figures are missing.")
    if not run.summaries:
        like = "" if folder.exists() else nearest_path(folder)
        raise ValueError(f"{folder} holds no finished run: there is no metrics.json in it{like}")
    if (epoch := run.facts.get("collapsed_epoch")) is not None:
        run.notes.append(
            f"Catastrophic overfitting: the robustness to several steps collapsed in epoch {epoch + 1} (on_collapse)."
        )
    run.history = read_history(folder)
    run.hardest = read_hardest(folder)
    return run


def _absorb(run: Run, place: Path, suite: str, facts: dict[str, Any], config: dict[str, Any] | None) -> None:
    """Add one finished test, the run's own or a later suite, to `run`."""
    metrics = read_metrics(place)
    if metrics is None:
        return
    found = read_verdicts(place)
    weights = found[0].get("weights") if found else None
    if (split := (config or {}).get("split", "test")) != "test":
        run.notes.append(f"Evaluation {suite} judged {split} images and no test images: its figures are left out.")
        return
    last = LAST if Path(str((config or {}).get("checkpoint"))).name == "last.ckpt" else ""
    if suite and not last and None not in (weights, run.weights) and weights != run.weights:
        run.notes.append(f"Evaluation {suite} judged other weights than the run's test: its figures are left out.")
        return
    run.weights = run.weights or (None if last else weights)
    stages = {k: Verdicts(*v) for k, v in by_stage(found[1]).items()} if found else {}
    threat = _threat(facts.get("threat") or (config or {}).get("attack"))
    own: dict[str, Any] = facts["threats"] if isinstance(facts.get("threats"), dict) else {}
    taken = set()
    for name, summary in metrics.items():
        _check_summary(place / "metrics.json", summary)
        key, here = name + last, None if name == "clean" else _threat(own[name]) if name in own else threat
        if key in run.summaries:
            if None not in (here, run.threats[key]) and here != run.threats[key]:
                run.notes.append(f"{suite}: {key} was also measured under another threat model; the first is shown.")
                continue
            if _images(summary) < _images(run.summaries[key]):
                continue
        run.summaries[key], run.threats[key] = summary, here
        taken.add(key)
        run.verdicts.pop(key, None)
        if (verdicts := verdicts_of(name, summary, stages)) is not None:
            run.verdicts[key] = verdicts
        elif found and name in PLAIN:
            run.notes.append(f"{place / NAME} is incomplete: the figures of {key} do not follow from it.")
    try:
        titles = {f"{k}{last}": f"{v}, last epoch" if last else str(v) for k, v in facts.get("titles", {}).items()}
        run.titles |= {k: v for k, v in titles.items() if k in taken or k not in run.titles}
        run.headline += [k + last for k in facts.get("headline", ()) if k in metrics and k + last not in run.headline]
        run.checks += [{**check, "suite": suite, "name": str(check["name"])} for check in facts.get("checks", ())]
        run.notes += [f"Evaluation {suite}: {note}" if suite else str(note) for note in facts.get("notes", ())]
        if curve := facts.get("curve"):
            pairs = [(float(e), k + last) for e, k in zip(curve["eps"], curve["keys"], strict=True) if k in metrics]
            run.curve = ([e for e, _ in pairs], [k for _, k in pairs])
    except (TypeError, ValueError, AttributeError, KeyError):
        raise ValueError(f"{place / 'run.json'} is not the record of an evaluation") from None


def _images(summary: Summary) -> int:
    return sum(summary.get("counts", {}).values())


def _threat(node: Any) -> tuple[str, float] | None:
    try:
        return str(node["norm"]), round(float(Fraction(str(node["eps"]))), 9)
    except (TypeError, KeyError, ValueError, ZeroDivisionError):
        return None


def _check_summary(path: Path, summary: Any) -> None:
    numbers = [summary["average"], summary["worst"], *summary["per_class"].values()]
    if not all(v is None or (isinstance(v, int | float) and 0 <= v <= 1) for v in numbers):
        raise ValueError(f"{path} is not a run's metrics.json: an accuracy in it is not in [0, 1]")
    extra = [summary.get(name, {}) for name in ("figures", "interval", "counts", "shift")]
    ends = extra[1].values() if isinstance(extra[1], dict) else [None]
    if not all(isinstance(v, dict) for v in extra) or not all(isinstance(v, list) and len(v) == 2 for v in ends):
        raise ValueError(f"{path} is not a run's metrics.json: its figures, intervals or counts are damaged")
