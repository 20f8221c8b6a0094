"""Compare evaluated classifiers: read the arguments, and hand them to `report/`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fairat_lightning.commands.errors import ending
from fairat_lightning.config.home import expanded_plainly


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("it names no folder")
    return Path(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}: --help lists the arguments\n")


@ending()
def main(arguments: Sequence[str] | None = None) -> None:
    """Gather, draw and write; SystemExit(2) after one line on stderr for wrong input."""
    parser = _Parser(
        prog="python -m fairat_lightning.report",
        description="Compare finished runs class by class, in tables, figures and one HTML page.",
    )
    what = "a finished run, one evaluation (RUN/evaluation/NAME), a saved result, an export, pretrained:NAME, or a folder that "
    what += "holds runs or evaluations (such as a sweep's, or RUN/evaluation); folders with the same LABEL are seeds of one row"
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]FOLDER", help=what)
    parser.add_argument(
        "--sort",
        action="store_true",
        help="sort by worst class (of more than 20, the worst 10 %%), highest first; the first run stays the baseline",
    )
    parser.add_argument(
        "--to", type=_folder, default=Path("report"), metavar="FOLDER", help="the folder to write to (default: report)"
    )
    try:
        options = parser.parse_args(expanded_plainly(sys.argv[1:] if arguments is None else arguments))
    except ValueError as error:
        parser.error(str(error))
    from fairat_lightning.report.groups import gather

    try:
        report = gather(options.runs)
        from fairat_lightning.report import compare  # matplotlib and SciPy take a second to import
        from fairat_lightning.report.terminal import show
        from fairat_lightning.report.write import publish

        rows = compare.rows(report)
        rows = compare.worst_first(report, rows) if options.sort else rows
        made = publish(report, rows, options.to)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    show(report, rows, options.to, made)
