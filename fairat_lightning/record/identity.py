"""What makes a run the same run: two configurations are one where they say the same, whichever version wrote them down.

A key that a stored configuration lacks counts as its default, and a key at its default stays out of a run's name, so that a new
key disowns no old run.
"""

from typing import Any

from fairat_lightning.record.old_names import at_first

# Keys that came after 0.1, each with the value that a run before it had.
ADDED = {"val_every": 1, "key": None, "normalisation": None}


def identity(config: Any, *, processes: bool = True) -> Any:
    """A resolved configuration without the keys of ADDED at their default; with `processes=False` also without their number.

    Classes have the names that they had at first.
    """
    if not isinstance(config, dict):
        return config
    found = {key: value for key, value in at_first(config).items() if key not in ADDED or value != ADDED[key]}
    if not processes and isinstance(found.get("trainer"), dict):
        found["trainer"] = {key: value for key, value in found["trainer"].items() if key not in ("devices", "num_nodes")}
    return found
