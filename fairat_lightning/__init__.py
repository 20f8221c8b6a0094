"""Train and audit image classifiers that are adversarially robust for every class, not only on average.

From Python, each with help(): `load_run`, `load_data`, `benchmark`, `compare`, `write_report`, `train`, `method`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairat_lightning.api import Result, benchmark, compare, load_data, load_run, method, train, write_report

__version__ = "0.3.0"
__all__ = ["Result", "benchmark", "compare", "load_data", "load_run", "method", "train", "write_report"]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    """The names for Python, imported when they are first asked for: torch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fairat_lightning import api

    return getattr(api, name)
