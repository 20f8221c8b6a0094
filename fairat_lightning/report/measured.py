"""What the figures of an attack were measured on, and under which threat model."""

import json
from collections.abc import Mapping
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from fairat_lightning.bootstrap import lowest_tenth

Summary = Mapping[str, Any]
Threat = tuple[str, float]  # norm and eps
Data = tuple[str, str, str]  # how images are read, as text, the size they get, and the folder that says which they are
OWN_SETS, BY_FOLDER = "fairat_lightning.data.sets.", ("folder",)  # of our own sets, one is whatever lies in its folder


def data_of(config: Mapping[str, Any] | None) -> Data | None:
    """What images the configuration reads; None where it does not say."""
    data = (config or {}).get("data")
    if not isinstance(data, Mapping) or "load" not in data:
        return None
    name = str((data["load"] or {}).get("_target_")) if isinstance(data["load"], Mapping) else ""
    known = name.startswith(OWN_SETS) and name.removeprefix(OWN_SETS) not in BY_FOLDER
    root = "" if known else str(data.get("root"))
    return json.dumps(data["load"], sort_keys=True, default=str), str(data.get("image_size")), root


def same_set(a: Data | None, b: Data | None) -> bool:
    """Whether two configurations read the same data set, as far as they say; a folder may hold others of its images."""
    return a is None or b is None or a[:2] == b[:2]


def bounded(summaries: Mapping[str, Any]) -> bool:
    """Whether a threat model bounds what an evaluation did to its images: corruptions have none."""
    return "corruptions" not in summaries


def pixels_of(header: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprints of the images in the header of a journal, by the way in which they were made."""
    measured = (header.get("config") or {}).get("data") or {}
    prints = {"evaluate": header.get("images"), "benchmark": measured.get("fingerprint")}
    return {way: value for way, value in prints.items() if value}


def images(summary: Summary) -> int:
    """How many images the figures are of; 0 where the record does not say."""
    return int(summary.get("images") or sum(summary.get("counts", {}).values()))


def rank(summary: Summary) -> tuple[int, float]:
    """The higher, the sooner a figure is shown of one attack that was run twice: more images, then the lower accuracy."""
    average = summary["average"]
    return images(summary), -inf if average is None else -average


def sought(summary: Summary) -> dict[str, float]:
    """The accuracies among which the worst is sought: of the classes in "worst_of", or of all that have images."""
    rates = summary["per_class"]
    return {name: rates[name] for name in summary.get("worst_of", rates) if rates[name] is not None}


def figure_of(summary: Summary | None, figure: str) -> float | None:
    """One figure of a summary, in [0,1]; None where it has none. The worst 10 %, like the worst, is sought among "worst_of"."""
    if summary is None:
        return None
    if figure == "worst_10_percent" and "worst_of" in summary:
        rates = list(sought(summary).values())
        return float(lowest_tenth(np.array(rates), len(summary["per_class"]))) if rates else None
    found: float | None = summary.get("figures", {}).get(figure, summary.get(figure))
    return found


def of_all_classes(summary: Summary | None) -> bool:
    """Whether an attack has met images of every class; True for one that a run has not met."""
    return summary is None or None not in summary["per_class"].values()


def four_digits(eps: float | str) -> float:
    """An eps of a sweep as its key writes it, by which the same eps of other records is known."""
    return float(f"{float(eps):.4g}")


def threat_of(node: Any) -> Threat | None:
    """Norm and eps of a configuration's attack or a record's threat model; None where it does not say."""
    try:
        return str(node["norm"]), round(float(Fraction(str(node["eps"]))), 9)
    except (TypeError, KeyError, ValueError, ZeroDivisionError):
        return None


def check_summary(path: Path, summary: Any) -> None:
    numbers = [summary["average"], summary["worst"], *summary["per_class"].values()]
    if not all(v is None or (isinstance(v, int | float) and 0 <= v <= 1) for v in numbers):
        raise ValueError(f"{path} is not a run's metrics.json: an accuracy in it is not in [0, 1]")
    extra = [summary.get(name, {}) for name in ("figures", "interval", "counts", "shift")]
    ends = extra[1].values() if isinstance(extra[1], dict) else [None]
    if not all(isinstance(v, dict) for v in extra) or not all(isinstance(v, list) and len(v) == 2 for v in ends):
        raise ValueError(f"{path} is not a run's metrics.json: its figures, intervals or counts are damaged")
