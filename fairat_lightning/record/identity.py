"""What makes a run the same run: two configurations are one where they say the same, whichever version wrote them down.

A key that a stored configuration lacks counts as its default, and a key at its default stays out of a run's name, so that a new
key disowns no old run. What changes no bit of a run (its loggers, how often it saves) is no part of it.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from fairat_lightning.record.old_names import at_first

ADDED = {
    "val_every": 1,
    "schedule": {},
    "callbacks": [],
    "key": None,
    "normalisation": None,
}  # came after 0.1, each with the value that a run before it had
ADDED_WITHIN: dict[str, dict[str, Any]] = {
    "head": {"strength": None},
    "attack": {"scale_step": True, "second_step": False},
    "objective": {"crafting": "ce", "guards": False},
    "data": {"monitor_size": 600},
    "method": {
        "margins": True,
        "cfp_factor": 1.0,
        "lambda_c": None,
        "always_divided": False,
        "multiplied": False,
        "class_loss": "mean",
        "padded_to": None,
        "reduction": "sum",
        "keep_confident": 0.0,
    },
}  # the same of keys within a group; but earlier runs had all validation images, which a run that continues keeps
IDLE = {"logger": {}, "save_minutes": 10}  # change no bit; the names of runs are made with their defaults of 0.1
IDLE_OF_TRAINER = ("enable_progress_bar", "log_every_n_steps")
IDLE_OF_DATA = ("in_memory", "cache")  # where images are kept: they are the same ones
SETS = "fairat_lightning.data.sets."
OURS = "fairat_lightning.data.DataModule"
CHECKED = ("cifar10", "cifar100", "stl10", "svhn")  # held against their published checksums: the same images in any data.root
MACHINE = ("devices", "num_nodes", "accelerator", "strategy")  # of the trainer: where an unfinished run continues
EMPTY: tuple[Any, ...] = (None, {})  # a group without an option
SHOWN = 12  # differences that a line can hold
SHARES = ("warmup", "start", "milestones")  # keys that are shares of all epochs


def identity(config: Any, *, machine: bool = True, root: bool = False) -> Any:
    """A resolved configuration without the keys that change no bit of the result, and without the keys of ADDED at their default.

    With `machine=False` also without the keys of MACHINE; with `root=True` with data.root for every set, as in 0.2.
    Classes have the names that they had at first.
    """
    if not isinstance(config, dict):
        return config
    found = {key: value for key, value in at_first(config).items() if key not in ADDED or value != ADDED[key]}
    found.pop("allow", None)
    found |= {key: value for key, value in IDLE.items() if key in found}
    found |= _without_added(found)
    if not root and isinstance(found.get("data"), dict):
        found["data"] = without_root(found["data"])
    if isinstance(found.get("trainer"), dict):
        without = IDLE_OF_TRAINER if machine else (*IDLE_OF_TRAINER, *MACHINE)
        found["trainer"] = {key: value for key, value in found["trainer"].items() if key not in without}
    return found


def _without_added(config: dict[str, Any]) -> dict[str, Any]:
    """The groups of ADDED_WITHIN without its keys at their default, and the data without the keys that change no bit."""
    groups = {group: config[group] for group in (*ADDED_WITHIN, "data") if isinstance(config.get(group), dict)}
    return {
        group: {
            key: value
            for key, value in values.items()
            if ADDED_WITHIN.get(group, {}).get(key, ...) != value and not (group == "data" and key in IDLE_OF_DATA)
        }
        for group, values in groups.items()
    }


def without_root(data: dict[str, Any]) -> dict[str, Any]:
    """The group `data` with no root where the set is the same in any: in another folder, or on another machine."""
    return {**data, "root": None} if "root" in data and checked(data) else data


def checked(data: dict[str, Any]) -> bool:
    """Whether the group `data` names a set of which it is proven, wherever its files lie, that they are the official ones."""
    load = data.get("load")
    official = isinstance(load, dict) and load.get("_target_") in [SETS + name for name in CHECKED]
    return official and data.get("_target_") == OURS


def without_idle(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved configuration without what differs between machines and dashboards, and changes nothing of a row's meaning."""
    found = {key: value for key, value in config.items() if key not in (*IDLE, "allow")}
    for group, idle in (("trainer", (*IDLE_OF_TRAINER, *MACHINE)), ("data", IDLE_OF_DATA)):
        if isinstance(values := found.get(group), dict):
            found[group] = {key: value for key, value in values.items() if key not in idle}
    return found | ({"data": without_root(found["data"])} if isinstance(found.get("data"), dict) else {})


def formerly(config: dict[str, Any]) -> dict[str, Any]:
    """The identity that 0.1 made a run's name from: with its one logger, and how often it saves."""
    loggers = [value for value in (config.get("logger") or {}).values() if isinstance(value, dict)]
    given = loggers[0] if loggers else {}
    given = given | ({"project": "fairat_lightning"} if given.get("project", ...) is None else {})
    first = {key: value for key, value in given.items() if value is not None or key in ("entity", "offline")}
    return {
        **identity(config, root=True),
        "logger": at_first(first),
        "save_minutes": config.get("save_minutes", IDLE["save_minutes"]),
    }


def differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """Every key in which two identities differ, with both values; where another class is named, that alone of its group."""
    if not isinstance(there, dict) or not isinstance(here, dict):
        if there != here and not (there in EMPTY and here in EMPTY):
            yield f"{key} is {_said(there)} there and {_said(here)} here"
        return
    if (target := "_target_") in {*there, *here} and there.get(target) != here.get(target):
        yield f"{key} is {_said(there)} there and {_said(here)} here"
        return
    for name in dict.fromkeys([*there, *here]):
        yield from differences(there.get(name), here.get(name), f"{key}.{name}" if key else str(name))


def in_words(found: Iterable[str]) -> str:
    """The differences in one line; of more than SHOWN the number of the others."""
    listed = list(found)
    more = f" and {len(listed) - SHOWN} more keys" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def of_all_epochs(config: dict[str, Any]) -> str | None:
    """The key by which a run of more epochs would have been another from its first steps on; None where it just continues."""
    optim, schedule = (config.get(group) or {} for group in ("optim", "schedule"))
    if not str(schedule.get("_target_", "")).endswith(".constant"):
        return "schedule" if schedule else f"optim ({str(optim.get('_target_', '')).rpartition('.')[2]})"
    for group in ("method", "averaging"):
        for key in SHARES:
            if (config.get(group) or {}).get(key):
                return f"{group}.{key}"
    return None


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("_target_", "none")).rpartition(".")[2]
    return "not set" if value is None else str(value)


EVALUATION_ADDED = {"samples_in_full": None, "split": "test"}  # after 0.1: at these values an evaluation is the one of before
NOT_OF_EVALUATION = ("overwrite", "to", "device", "devices", "allow")


def evaluation_identity(config: dict[str, Any]) -> dict[str, Any]:
    """What makes an evaluation the same one: its configuration, as its folder holds it."""
    kept = {key: value for key, value in (config | _without_added(config)).items() if key not in NOT_OF_EVALUATION}
    return {key: value for key, value in kept.items() if EVALUATION_ADDED.get(key, ...) != value}
