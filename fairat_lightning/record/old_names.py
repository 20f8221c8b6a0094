"""Classes that a configuration on the disk may name by the module they were in before: the only aliases of the package."""

from typing import Any

NOW = {
    "fairat_lightning.suites.Quick": "fairat_lightning.evaluation.suites.Quick",
    "fairat_lightning.suites.Standard": "fairat_lightning.evaluation.suites.StandardSuite",
    "fairat_lightning.suites.Sweep": "fairat_lightning.evaluation.suites.EpsSweep",
    "fairat_lightning.autoattack.APGD": "fairat_lightning.evaluation.autoattack.APGD",
    "fairat_lightning.autoattack.AutoAttack": "fairat_lightning.evaluation.autoattack.AutoAttack",
    "fairat_lightning.corruptions.Corruptions": "fairat_lightning.evaluation.corruptions.Corruptions",
    "fairat_lightning.dashboards.wandb_logger": "fairat_lightning.training.wandb.wandb_logger",
}
BEFORE = {now: before for before, now in NOW.items()}


def today(node: Any) -> Any:
    """A configuration, or a part of one, with every `_target_` under its name of today."""
    return _renamed(node, NOW)


def at_first(node: Any) -> Any:
    """The same with the names that classes had in version 0.1: those that the names of run folders were made from."""
    return _renamed(node, BEFORE)


def _renamed(node: Any, names: dict[str, str]) -> Any:
    if isinstance(node, list):
        return [_renamed(child, names) for child in node]
    if not isinstance(node, dict):
        return node
    found = {key: _renamed(value, names) for key, value in node.items()}
    if isinstance(target := found.get("_target_"), str):
        found["_target_"] = names.get(target, target)
    return found
