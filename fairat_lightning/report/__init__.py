"""Finished runs compared class by class: tables, figures and one page, for a reader or piece by piece.

What may be used from outside is imported when it is asked for, so that the command answers before matplotlib is loaded.
"""

from importlib import import_module
from typing import Any

HOME = {
    **dict.fromkeys(("mean_of", "rows"), "compare"),
    **dict.fromkeys(("class_bars", "class_accuracies", "clean_against_robust", "confusion", "draw_classes"), "figures"),
    "eps_curve": "curves",
    **dict.fromkeys(("Report", "gather", "report_of"), "groups"),
    **dict.fromkeys(("Group", "Run", "read_run"), "runs"),
    **{"publish": "write", "save": "style", "class_table": "terminal"},
}
__all__ = list(HOME)


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOME[name]}"), name)
