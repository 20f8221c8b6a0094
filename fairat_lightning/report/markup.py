"""Text from outside as itself in Markdown, LaTeX and HTML, and the frame of a table on the page."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
}


def one_line(text: str) -> str:
    return " ".join(text.split())


def markdown_text(text: str) -> str:
    """`text` as itself on one line of Markdown."""
    return _replaced(one_line(text), {c: f"\\{c}" for c in "\\`*_{}[]<>#|~$"} | {"&": "&amp;"})


def latex_text(text: str) -> str:
    """`text` as itself on one line of LaTeX."""
    return _replaced(one_line(text), LATEX)


def html_list(lines: Iterable[str]) -> str:
    """An unordered list of texts; empty without any."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>\n" if items else ""


def html_short(head: str, title: str) -> str:
    """A head, with its full title where a pointer rests on it."""
    return escape(head) if head == title else f'<abbr title="{escape(title)}">{escape(head)}</abbr>'


def html_cell(cell: Mapping[str, Any] | None) -> str:
    """A <td> of mean, spread and interval that sorts by the mean."""
    if cell is None or cell["mean"] is None:
        return "<td>–</td>"
    text = escape(spread(cell))
    text = f"<strong>{text}</strong>" if cell.get("best") else text
    span = interval(cell)
    return f'<td data-value="{cell["mean"]}">{text}' + (f'<span class="interval">{span}</span>' if span else "") + "</td>"


def spread(cell: Mapping[str, Any] | None) -> str:
    """ "39.7 ± 4.4", in percent; a dash for what is missing."""
    if cell is None or cell["mean"] is None:
        return "–"
    return f"{100 * cell['mean']:.1f}" + ("" if cell["std"] is None else f" ± {100 * cell['std']:.1f}")


def interval(cell: Mapping[str, Any] | None) -> str:
    """ "[34.2, 45.2]", in percent; empty where there is none."""
    return "" if cell is None or "low" not in cell else f"[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"


def html_head(text: str, kind: str, over: str = "") -> str:
    """A column's <th> that sorts its table by "text" or "number"; `text`, and `over` on a line above it, are HTML."""
    return f'<th scope="col" data-kind="{kind}"><button type="button">{over}{"<br>" if over else ""}{text}</button></th>'


def html_table(name: str, heads: Sequence[str], lines: Sequence[str]) -> str:
    """A table that scrolls sideways where it is too wide; `heads` are its <th>, `lines` its <tr>."""
    head, body = "".join(heads), "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table"><table class="wide" id="{name}-table">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _replaced(characters: Iterable[str], by: Mapping[str, str]) -> str:
    return "".join(by.get(c, c) for c in characters)
