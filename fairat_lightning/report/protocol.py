"""The known differences between one of our runs and a published figure, read from both protocols."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairat_lightning.record.reader import read_config
from fairat_lightning.report.configurations import leaves
from fairat_lightning.report.measured import images
from fairat_lightning.report.runs import Group
from fairat_lightning.settings import number

MODELS = {
    "preactresnet18": ("PreAct ResNet-18", 64),
    "resnet18": ("ResNet-18", 64),
    "wrn28_10": ("WRN-28-10", 16),
    "wrn34_10": ("WRN-34-10", 16),
}
CHOSEN = {
    "validation": "chosen on validation",
    "test": "on test images",
    "last": "as the last",
    "best": "as the best, on images that are not named",
}


def reasons(group: Group, published: Mapping[str, Any], note: str = "") -> list[str]:
    """What differs between our runs and a published row of the protocol `published`, ours first; its `note` last."""
    config = leaves(group.runs[0].config or {})
    ours: dict[str, Any] = {
        "data": config.get("data.load._target_", "").rpartition(".")[2],
        "model": _model(config),
        "epochs": config.get("trainer.max_epochs"),
        "eps": config.get("attack.eps"),
        "steps": config.get("attack.steps"),
        "seeds": len(group.runs),
    }
    theirs = dict(published)
    for protocol in (ours, theirs):
        if protocol.get("eps") is not None:
            protocol["eps"] = number("eps", protocol["eps"])
    texts = {
        "data": "{}, published {}",
        "model": "{}, published {}",
        "epochs": "{} epochs, published {} epochs",
        "eps": "training eps {:.4g}, published training eps {:.4g}",
        "steps": "trained against {} steps, published {}",
        "seeds": "seeds: {}, published {}",
    }
    both = {key: (ours[key], theirs[key]) for key in texts if ours[key] and theirs.get(key) is not None}
    found = [texts[key].format(*pair) for key, pair in both.items() if pair[0] != pair[1]]
    found += _recipe(config, group.runs[0].folder, theirs)
    for key, title in (("pgd20", "PGD-20"), ("autoattack", "AutoAttack")):
        counted = min((images(run.summaries[key]) for run in group.runs if key in run.summaries), default=0)
        found += [f"{title} on {counted:,} test images"] if 0 < counted < theirs.get("test_images", 10_000) else []
    judged = [run.summaries["autoattack"] for run in group.runs if "autoattack" in run.summaries]
    if judged and (sought := judged[0].get("worst_of")):
        found.append(f"the worst class is the worst of {len(sought)} classes, the weakest on validation")
    kept = "last" if config.get("select") == "last" else "validation"
    if (chosen := theirs.get("selection")) is None:
        found.append("the publication does not say how its epoch was chosen")
    elif chosen != kept:
        found.append(f"epoch {CHOSEN[kept]}, published {CHOSEN[chosen]}")
    return [*found, note] if note else found


def _recipe(config: Mapping[str, Any], folder: Path, published: Mapping[str, Any]) -> list[str]:
    """What of our training, by its `leaves`, the published protocol does not say in the same words."""
    found = []
    if _one_cycle(config):
        theirs = f", published {published['schedule']}" if "schedule" in published else ""
        found.append(f"one cycle of learning rates up to {config.get('optim.lr')}{theirs}")
    if path := config.get("init_from"):
        places = (Path(path), folder.parent / Path(path).name)  # the folder of both may have been moved
        if base := leaves(next(filter(None, map(read_config, places)), {})):
            cycle = " of one cycle" if _one_cycle(base) else ""
            found.append(f"fine-tuned from our own base of {base.get('trainer.max_epochs')} epochs{cycle}")
    if (steps := config.get("attack.steps")) and steps < 7 and "steps" not in published:
        found.append(f"trained against {steps} step{'s' if steps > 1 else ''}")
    if size := config.get("data.train_size"):
        found.append(f"{size:,} training images")
    if str(config.get("trainer.precision")).startswith("bf16"):
        found.append("trained in bf16")
    return found


def _one_cycle(config: Mapping[str, Any]) -> bool:
    return str(config.get("optim._target_")).endswith("onecycle")


def _model(config: Mapping[str, Any]) -> str:
    name, width = config.get("model._target_", "").rpartition(".")[2], config.get("model.width")
    title, usual = MODELS.get(name, (name, None))
    if name == "wrn28_10" and width == 8:
        return "WRN-28-5"
    return title if width == usual else f"{title} of width {width}"
