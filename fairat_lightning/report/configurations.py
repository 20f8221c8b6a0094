"""What of a run's configuration says which row it belongs to."""

import json
from collections.abc import Mapping
from typing import Any

from fairat_lightning.record.identity import without_idle
from fairat_lightning.record.reader import read_config, run_folder
from fairat_lightning.report.runs import Run

NOT_CONFIGURATION = ("seed", "init_from", "overwrite")


def by_origin(runs: list[Run]) -> list[list[Run]]:
    """The runs by the configurations of the networks they started from and learned from, where those of all can be read."""
    teachers = [
        method.get("teacher") if isinstance(method := (run.config or {}).get("method"), Mapping) else None for run in runs
    ]
    found: dict[str, list[Run]] = {}
    origins = zip(*map(_read, ([(run.config or {}).get("init_from") for run in runs], teachers)), strict=True)
    for run, key in zip(runs, origins, strict=True):
        found.setdefault(json.dumps(key, sort_keys=True, default=str), []).append(run)
    return list(found.values())


def _read(paths: list[Any]) -> list[Any]:
    """The configuration of each of these networks; of all None where one lies elsewhere today."""
    found: list[Any] = []
    for path in paths:
        try:
            folder = run_folder(path) if path else None
            found.append(configuration(read_config(folder)) if folder else None)
        except (ValueError, OSError):
            found.append(None)
    unknown = any(path and config is None for path, config in zip(paths, found, strict=True))
    return [None] * len(paths) if unknown else found


def configuration(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """A run's configuration without what differs between seeds, machines and dashboards."""
    found = without_idle({key: value for key, value in (config or {}).items() if key not in NOT_CONFIGURATION})
    for group, key in (("method", "teacher"), ("data", "seed")):
        if isinstance(values := found.get(group), Mapping):
            found[group] = {k: v for k, v in values.items() if k != key}
    return found


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {k: v for key, child in node.items() for k, v in leaves(child, f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: node}
