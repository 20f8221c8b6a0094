"""What makes a run the same run: two configurations are one where they say the same, whichever version wrote them down.

A key that a stored configuration lacks counts as its default, and stays out of a run's name as long as it has it, so that a new
key disowns no old run.
"""

from typing import Any

ADDED = {"val_every": 1}  # keys that came after 0.1, each with the value that a run before it had


def identity(config: Any, *, processes: bool = True) -> Any:
    """A resolved configuration without the keys of ADDED at their default; with `processes=False` also without their number."""
    if not isinstance(config, dict):
        return config
    found = {key: value for key, value in config.items() if key not in ADDED or value != ADDED[key]}
    if not processes and isinstance(found.get("trainer"), dict):
        found["trainer"] = {key: value for key, value in found["trainer"].items() if key not in ("devices", "num_nodes")}
    return found
