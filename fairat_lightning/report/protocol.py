"""What is known to differ between a run of ours and a published figure, read from both protocols."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from fairat_lightning.report.gather import Group

MODELS = {
    "preactresnet18": ("PreAct ResNet-18", 64),
    "resnet18": ("ResNet-18", 64),
    "wrn28_10": ("WRN-28-10", 16),
    "wrn34_10": ("WRN-34-10", 16),
}


def reasons(group: Group, published: Mapping[str, Any], note: str = "") -> list[str]:
    """What differs between our runs and a published row of the protocol `published`, ours first; its `note` last."""
    config = group.runs[0].config or {}
    data = _of(config, "data", "load", "_target_")
    ours: dict[str, Any] = {
        "data": data and str(data).rpartition(".")[2],
        "model": _model(config.get("model") or {}),
        "epochs": _of(config, "trainer", "max_epochs"),
        "eps": _number(_of(config, "attack", "eps")),
        "seeds": len(group.runs),
    }
    theirs = {**published, **({"eps": _number(published["eps"])} if "eps" in published else {})}
    texts = {"data": "{}", "model": "{}", "epochs": "{} epochs", "eps": "training eps {:.4g}", "seeds": "seeds: {}"}
    found = [
        f"{text.format(ours[key])}, published {text.format(theirs[key]).removeprefix('seeds: ')}"
        for key, text in texts.items()
        if theirs.get(key) is not None and ours[key] not in (None, theirs[key])
    ]
    found += _recipe(config)
    judged = [run.summaries["autoattack"] for run in group.runs if "autoattack" in run.summaries]
    if judged:
        images = sorted(sum(summary["counts"].values()) for summary in judged)
        found += [f"AutoAttack on {images[0]:,} test images"] if images[0] < theirs.get("test_images", 10_000) else []
        if sought := judged[0].get("worst_of"):
            found.append(f"its worst class sought among {len(sought)}, the weakest on validation")
    if (chosen := theirs.get("selection")) is None:
        found.append("how the published epoch was chosen is not said")
    elif chosen != "validation":
        how = {"test": "on test images", "last": "as the last", "best": "as the best, on what images is not said"}[chosen]
        found.append(f"epoch chosen on validation, published {how}")
    return [*found, note] if note else found


def _recipe(config: Mapping[str, Any]) -> list[str]:
    """What of our training no published protocol says."""
    found = []
    if str(_of(config, "optim", "_target_")).endswith("onecycle"):
        found.append("one cycle")
    if isinstance(path := config.get("init_from"), str) and (place := Path(path) / "config.yaml").is_file():
        base = yaml.safe_load(place.read_text())
        cycle = " of one cycle" if str(_of(base, "optim", "_target_")).endswith("onecycle") else ""
        found.append(f"from a base of our own of {_of(base, 'trainer', 'max_epochs')} epochs{cycle}")
    if (steps := _of(config, "attack", "steps")) and steps < 7:
        found.append(f"trained against {steps} step{'s' if steps > 1 else ''}")
    if size := _of(config, "data", "train_size"):
        found.append(f"{size:,} training images")
    if str(_of(config, "trainer", "precision")).startswith("bf16"):
        found.append("trained in bf16")
    return found


def _of(config: Any, *keys: str) -> Any:
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _model(config: Mapping[str, Any]) -> str | None:
    name, width = str(config.get("_target_", "")).rpartition(".")[2], config.get("width")
    title, usual = MODELS.get(name, (name, None))
    if name == "wrn28_10" and width == 8:
        return "WRN-28-5"
    return title if width == usual else f"{title} of width {width}"


def _number(value: Any) -> float | None:
    return None if value is None else float(Fraction(str(value)))
