"""Runs gathered into tables, figures and one page: `python -m fairat_lightning.report`, or these pieces by themselves."""

from fairat_lightning.report.compare import mean_of, rows
from fairat_lightning.report.figures import class_bars, class_errors, clean_against_robust, confusion, draw_classes
from fairat_lightning.report.gather import Group, Run, read_run
from fairat_lightning.report.groups import Report, gather, report_of
from fairat_lightning.report.style import save
from fairat_lightning.report.terminal import class_table

__all__ = [
    "Group",
    "Report",
    "Run",
    "class_bars",
    "class_errors",
    "class_table",
    "clean_against_robust",
    "confusion",
    "draw_classes",
    "gather",
    "mean_of",
    "read_run",
    "report_of",
    "rows",
    "save",
]
