"""What a run's folder says of its weights, for their model card: its own test, the evaluations below it, and its training.

Figures are shown only if they are of the very weights that are exported. The run's own test judged `checkpoints/best.ckpt`; an
evaluation's `samples.jsonl` begins with a fingerprint of what it judged. This leaf imports `record.py`, which wrote it all.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fairat_lightning.attacks import number
from fairat_lightning.card.tables import Evaluation
from fairat_lightning.record import read_metrics

NEVER = "These weights were never evaluated here: nothing is known of their accuracy or robustness."


@dataclass(frozen=True)
class Records:
    """Figures, remarks on what is missing among them, run.json (None without a run) and the resolved configuration as YAML.

    `method` is what trained the weights; `selected` says whether validation chose them.
    """

    config: str
    evaluations: list[Evaluation] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    training: Mapping[str, Any] | None = None
    method: str | None = None
    selected: bool = False


def read_records(run: Path, checkpoint: Path, weights: str) -> Records:
    """The records of `run` that concern `checkpoint`, whose `weights` have this `audit.fingerprint`.

    ValueError, one line with the path, for a file that cannot be read.
    """
    found: list[Evaluation] = []
    remarks: list[str] = []
    config, metrics = _config(run / "config.yaml"), read_metrics(run)
    selected = checkpoint.is_dir() or checkpoint.name == "best.ckpt"
    if not selected:
        remarks.append(f"The weights are those of {checkpoint.name}; the run's own test judged best.ckpt, and is not shown.")
    elif metrics is None:
        remarks.append("The run is not finished: it was not tested.")
    else:
        found.append(Evaluation("test of the run", metrics, _threat(run / "config.yaml", config.get("attack"))))
        if str((config.get("trainer") or {}).get("precision")) == "64-true":
            remarks.append("The run's own test was in float64; the weights here are float32.")
    places = run / "evaluation"
    for place in sorted(places.iterdir()) if places.is_dir() else ():
        if not (place / "metrics.json").is_file():
            continue
        if _judged(place / "samples.jsonl") not in (None, weights):
            remarks.append(f"The evaluation {place.name} judged other weights, and is not shown.")
        elif (place / "config.yaml").is_file() and (split := _config(place / "config.yaml").get("split", "test")) != "test":
            remarks.append(f"The evaluation {place.name} judged {split} images and no test images, and is not shown.")
        else:
            found.append(_evaluation(place))
    remarks += [] if found else [NEVER]
    parts = [config.get(group) or {} for group in ("method", "objective", "awp", "averaging")]
    method = ", ".join(str(part["_target_"]).rpartition(".")[2] for part in parts if "_target_" in part)
    by_validation = selected and config.get("select") != "last"
    return Records((run / "config.yaml").read_text(), found, remarks, _object(run / "run.json"), method, by_validation)


def _evaluation(place: Path) -> Evaluation:
    facts, metrics = _object(place / "run.json"), read_metrics(place)
    assert metrics is not None
    config = _config(place / "config.yaml") if (place / "config.yaml").is_file() else {}
    try:
        suite = {key: value for key, value in config.get("suite", {}).items() if key not in ("_target_", "name", "suite", "root")}
        notes = facts.get("notes") or []
        return Evaluation(
            place.name,
            metrics,
            _threat(place / "run.json", facts.get("threat")),
            {str(key): str(title) for key, title in facts.get("titles", {}).items()},
            [str(key) for key in facts.get("headline") or []],
            [notes] if isinstance(notes, str) else [str(note) for note in notes],
            [{key: check[key] for key in ("name", "passed", "detail")} for check in facts.get("checks") or []],
            {**suite, "images": facts.get("images"), "batch size": facts.get("batch_size"), "seed": facts.get("seed")},
        )
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{place / 'run.json'} is not the record of an evaluation") from None


def _judged(path: Path) -> str | None:
    """The fingerprint of the weights that an evaluation judged, None where it does not say."""
    try:
        with path.open() as file:
            weights = json.loads(file.readline()).get("weights")
    except (OSError, ValueError, AttributeError):
        return None
    return weights if isinstance(weights, str) else None


def _threat(path: Path, node: Any) -> dict[str, Any]:
    try:
        return {"norm": str(node["norm"]), "eps": number("eps", node["eps"])}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} holds no threat model: norm and eps") from None


def _object(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()).items())
    except (OSError, ValueError, AttributeError):
        raise ValueError(f"{path} cannot be read: it is no record of a run") from None


def _config(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text()).items())
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        raise ValueError(f"{path} cannot be read: it is no configuration") from None
