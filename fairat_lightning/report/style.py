"""The look of every figure, and how one is written.

The first six colours are Paul Tol's bright scheme, which colour-blind readers can tell apart; four more make ten, for the ten
classes of many data sets. Hatches and markers say the same again.
"""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#e08214", "#8878e0", "#8c564b", "#35c2a5")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++")
MARKERS = "osD^vPX<>ph"  # as many as share no factor with the colours, so that the first 110 pairs differ
NARROW = 5.4  # inches: the widest figure that a phone shows whole, with letters that can be read
INK, GREY, PAPER = "#1c2024", "#8b929a", "#ffffff"
LARGEST_SVG = 400_000  # characters; a larger drawing is embedded as a PNG
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "lines.linewidth": 1.6,
    **{name: INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")},
}


@contextmanager
def styled() -> Iterator[None]:
    """The report's style, inside a `with` or over a function."""
    with matplotlib.rc_context(STYLE):
        yield


# From nothing to a strong colour, so that empty cells are the page's own ground.
BLUE = LinearSegmentedColormap.from_list("blue", [(0.27, 0.47, 0.67, a) for a in (0, 0.45, 0.8, 1)])
RED = LinearSegmentedColormap.from_list("red", [(0.80, 0.27, 0.33, a) for a in (0, 1)])


@styled()
def save(figure: Figure, path: Path) -> None:
    """Write the figure at `path` in the format of its suffix, without a time in it."""
    metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
    figure.savefig(path, dpi=150, facecolor=PAPER, metadata=metadata)


def legend(figure: Figure, axes: Axes) -> None:
    """Above the axes, in as many columns as the longest label leaves room for."""
    longest = max((len(text) for text in axes.get_legend_handles_labels()[1]), default=1)
    columns = max(1, min(4, int(figure.get_size_inches()[0] * 12) // (longest + 5)))
    # Of these axes only: panels of one figure share their legend.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=columns)


def fill(i: int) -> dict[str, Any]:
    """What the bars of series `i` look like."""
    return {"color": COLOURS[i % len(COLOURS)], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": PAPER, "linewidth": 0}


def svg(figure: Figure, name: str, words: str) -> str:
    """The figure as inline SVG in the colours of the page, its ids made unique by `name`; as an <img> if it is too large."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with styled():
        figure.savefig(text, format="svg", facecolor="none", metadata=nothing)
    drawing = text.getvalue()
    width = figure.get_size_inches()[0]
    if len(drawing) > LARGEST_SVG:
        pixels = io.BytesIO()
        with styled():
            figure.savefig(pixels, format="png", dpi=130, facecolor=PAPER)
        data = base64.b64encode(pixels.getvalue()).decode()
        return f'<img alt="{escape(words)}" style="min-width:{62 * width:.0f}px" src="data:image/png;base64,{data}">'
    drawing = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", drawing[drawing.index("<svg") :], flags=re.S)
    box = re.search(r'viewBox="[^"]*"', drawing)
    assert box is not None
    shape = f"min-width:{62 * width:.0f}px;max-width:{104 * width:.0f}px"
    opening = f'<svg {box.group()} role="img" aria-label="{escape(words)}" style="{shape}">'
    body = opening + drawing[drawing.index(">") + 1 :]
    body = re.sub(r'(<[^>]*\sid=")', rf"\1{name}-", body)
    body = body.replace('xlink:href="#', f'xlink:href="#{name}-').replace("url(#", f"url(#{name}-")
    return body.replace(INK, "currentColor")
