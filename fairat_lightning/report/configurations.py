"""What of a run's configuration says which row it belongs to, and what the row is called."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairat_lightning.record.identity import without_idle
from fairat_lightning.record.reader import read_config, run_folder
from fairat_lightning.report.runs import Run

OBJECTIVES = {"AT": "PGD-AT", "TRADES": "TRADES", "MART": "MART"}
PARTS = {"FairTAT": "FAIR-TAT", "FairARD": "Fair-ARD", "BalancedHead": "balanced head"}
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


def labels_of(rows: Sequence[Sequence[Run]], taken: set[Any]) -> list[str]:
    """A short name for each row: its method; where rows share one, what sets them apart; at last the folder."""
    parts = {runs[0].part for runs in rows}
    names = [_name(runs[0], named=len(parts) > 1) for runs in rows]
    flat = [leaves(configuration(runs[0].config)) for runs in rows]
    result: list[str] = []
    for k, name in enumerate(names):
        twins = [flat[j] for j in range(len(rows)) if names[j] == name]
        if len(twins) > 1:
            differing = [key for key in flat[k] if len({str(twin.get(key)) for twin in twins}) > 1]
            name = ", ".join([name, *(f"{key.rpartition('.')[2].replace('_', ' ')} {flat[k][key]}" for key in differing)])
        folder = str(rows[k][0].folder)
        result.append(name if name not in {*taken, *result} and len(name) <= 60 else Path(folder).resolve().name)
        if result[-1] in {*taken, *result[:-1]}:
            result[-1] = folder
    return result


def _name(run: Run, named: bool) -> str:
    """The method, or without a configuration the folder, which for an evaluation is that of the network; its own if `named`."""
    folder = run.folder.resolve()
    inner = run.part if run.part == folder.name and folder.parent.name == "evaluation" else ""
    above = folder.parent.parent.name.removeprefix("audit-") if inner else folder.name
    of = _method(run) or above
    return f"{of}, {run.part}" if named and run.part and of != run.part else of


def _method(run: Run) -> str | None:
    """ "FAAL", "PGD-AT", "FairAT, TRADES, AWP": the parts of the configuration that a table's row is known by."""
    config = run.config or {}
    parts = {group: str((config.get(group) or {}).get("_target_", "")).rpartition(".")[2] for group in ("method", "objective")}
    if not parts["method"]:
        return None
    objective = OBJECTIVES.get(parts["objective"], parts["objective"])
    words = [objective if parts["method"] == "AdversarialTraining" else PARTS.get(parts["method"], parts["method"])]
    if parts["method"] not in ("AdversarialTraining", "Standard") and parts["objective"] not in ("", "AT"):
        words.append(objective)
    targets = [str((config.get(group) or {}).get("_target_", "")).rpartition(".")[2] for group in ("awp", "averaging", "head")]
    words += [PARTS.get(target, target) for target in targets if target]
    return ", ".join(words)
