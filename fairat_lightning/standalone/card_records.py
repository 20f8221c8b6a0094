"""What a run's folder says of its weights, for their model card: its own test, the evaluations below it, and its training.

Figures are shown only if they are of the very weights that are exported. The run's own test is of `checkpoints/best.ckpt`; an
evaluation's `samples.jsonl` begins with a fingerprint of the weights it evaluated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fairat_lightning.record import BEST
from fairat_lightning.record.reader import evaluations, read_config, read_facts, read_metrics, read_verdicts
from fairat_lightning.report.measured import Threat, data_of, same_set, threat_of
from fairat_lightning.standalone.card_tables import Evaluation

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
    """The records of `run` that concern `checkpoint`, whose `weights` have this fingerprint (`record/fingerprint.py`).

    ValueError, one line with the path, for a file that cannot be read.
    """
    found: list[Evaluation] = []
    remarks: list[str] = []
    config, metrics = read_config(run) or {}, read_metrics(run)
    data = data_of(config)
    selected = checkpoint.is_dir() or checkpoint.name == BEST
    if not selected:
        remarks.append(f"The weights are those of {checkpoint.name}; the run's own test is of {BEST}, and is not shown.")
    elif metrics is None:
        remarks.append("The run is not finished: it was not tested.")
    else:
        found.append(Evaluation("test of the run", metrics, _threat(run / "config.yaml", config.get("attack"))))
        if str((config.get("trainer") or {}).get("precision")) == "64-true":
            remarks.append("The run's own test was in float64; the weights here are float32.")
    for place in evaluations(run):
        if not (place / "metrics.json").is_file():
            continue
        verdicts, config_there = read_verdicts(place), read_config(place) or {}
        if (verdicts[0].get("weights") if verdicts else None) not in (None, weights):
            remarks.append(f"The evaluation {place.name} is of other weights, and is not shown.")
        elif (split := config_there.get("split", "test")) != "test":
            remarks.append(f"The evaluation {place.name} is of {split} images, not test images, and is not shown.")
        elif not same_set(data_of(config_there), data):
            remarks.append(f"The evaluation {place.name} is of another data set than the run's test, and is not shown.")
        else:
            found.append(_evaluation(place))
    remarks += [] if found else [NEVER]
    parts = [config.get(group) or {} for group in ("method", "objective", "awp", "averaging")]
    method = ", ".join(str(part["_target_"]).rpartition(".")[2] for part in parts if "_target_" in part)
    by_validation = selected and config.get("select") != "last"
    return Records(yaml.safe_dump(config, sort_keys=False), found, remarks, read_facts(run), method, by_validation)


def _evaluation(place: Path) -> Evaluation:
    facts, metrics = read_facts(place), read_metrics(place)
    assert metrics is not None
    config = read_config(place) or {}
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


def _threat(path: Path, node: Any) -> Threat:
    if (threat := threat_of(node)) is None:
        raise ValueError(f"{path} holds no threat model: norm and eps")
    return threat
