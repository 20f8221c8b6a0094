"""Our figures beside published ones, which stay apart: `published_figures/<source>.yaml`, in percent, each with its source.

A row names what it is set beside as "<source>.<row>". Published figures come under other protocols than ours: every difference is
given with what is known to differ, read from both protocols, and marked where the published figure lies within our interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from rich import box
from rich.markup import escape as escape_markup
from rich.table import Table

from fairat_lightning.record.attack_titles import TITLES
from fairat_lightning.report.claim import points
from fairat_lightning.report.compare import Cell, cell
from fairat_lightning.report.groups import Report
from fairat_lightning.report.markup import html_list, html_table, markdown_text, spread
from fairat_lightning.report.protocol import reasons
from fairat_lightning.report.runs import Group

FIGURES = Path(__file__).resolve().parent / "published_figures"
ATTACKS = ("clean", "pgd", "pgd20", "cw20", "autoattack")
GAIN = "pgd20"  # what a gain under an attack that its source does not name is set beside: measured on all test images
PUBLISHED, DIFFERENCE = "published: ", "difference"
CAPTION = (
    "Accuracy in percent. Published figures are quoted, not measured here. The difference is ours minus theirs; ≈ where the "
    "published one lies within the 95 % interval of ours, over three seeds or more, or over the test images of one run."
)


@dataclass
class Reference:
    """One published row: its figures in [0,1], by (attack, figure), and the protocol they were measured under.

    The attack of a gain, which its source does not name, is "gain".
    """

    label: str
    cite: str
    figures: dict[tuple[str, str], float]
    protocol: dict[str, Any]
    note: str


@dataclass
class Beside:
    """A row of ours and a published one. A gain is over the row `base`."""

    group: Group
    reference: Reference
    base: Group | None

    def ours(self, attack: str, figure: str) -> Cell | None:
        """Our `compare.cell` of the same figure; None where there is none."""
        if attack == "gain":
            return _gain(self.group, self.base, figure)
        if figure in ("average", "worst"):
            return cell(self.group, attack, figure) if self.group.classes(attack) else None
        values = self.group.class_values(attack, figure)
        return {"mean": mean(values), "std": None, "values": values} if values else None


def reference(name: str) -> Reference:
    """The published row called "<source>.<row>". ValueError where there is none."""
    source, _, key = name.partition(".")
    path = FIGURES / f"{source}.yaml"
    found = yaml.safe_load(path.read_text()) if path.is_file() else {}
    if key not in found.get("rows", {}):
        raise ValueError(f"there are no published figures called {name}")
    row = found["rows"][key]
    figures = {(attack, f): v / 100 for attack in (*ATTACKS, "gain") for f, v in row.get(attack, {}).items() if f != "over"}
    return Reference(
        row["label"],
        found["cite"],
        figures,
        {**found.get("protocol", {}), **row.get("protocol", {})},
        row.get("note", ""),
    )


def beside(report: Report, names: Mapping[str, Sequence[str]]) -> list[Beside]:
    """Every row of `report` beside the published rows that `names` gives its label; a gain is over the row's baseline."""
    return [
        Beside(group, reference(name), report.baseline(group)) for group in report.groups for name in names.get(group.label, ())
    ]


def _gain(group: Group, base: Group | None, figure: str) -> Cell | None:
    if base is None:
        return None
    mine, other = cell(group, GAIN, figure)["mean"], cell(base, GAIN, figure)["mean"]
    return None if None in (mine, other) else {"mean": mine - other, "std": None, "values": []}


def columns(lines: Sequence[Beside]) -> list[tuple[str, str]]:
    """The (attack, figure) that any published row has, in a fixed order."""
    present = {key for line in lines for key in line.reference.figures}
    usual = [(attack, figure) for attack in (*ATTACKS, "gain") for figure in ("average", "worst")]
    return [key for key in usual if key in present] + sorted(present - set(usual))


def title(attack: str, figure: str) -> str:
    titles = {**TITLES, "gain": f"gain under {TITLES[GAIN]}, published under an unnamed attack,", "pgd": "PGD, steps not said,"}
    return f"{titles[attack]} {figure}"


def table(lines: Sequence[Beside]) -> list[list[str]]:
    """Cells of text: a head, then for each of our rows itself, and each published row with its difference."""
    keys = columns(lines)
    rows = [["", *(title(*key) for key in keys)]]
    for k, line in enumerate(lines):
        if k == 0 or lines[k - 1].group is not line.group:
            rows.append([line.group.label, *("" if (ours := line.ours(*key)) is None else spread(ours) for key in keys)])
        theirs = line.reference.figures
        own = "" if line.reference.label == line.group.label else f"{line.reference.label}, "
        rows.append([PUBLISHED + own + line.reference.cite])
        rows[-1] += [f"{100 * theirs[key]:.1f}" if key in theirs else "" for key in keys]
        rows.append([DIFFERENCE, *(_difference(line.ours(*key), theirs[key]) if key in theirs else "" for key in keys)])
    return rows


def _difference(ours: Cell | None, published: float) -> str:
    if ours is None or ours["mean"] is None:
        return "–"
    text = points(ours["mean"] - published)
    within = (
        "low" in ours and sum(value is not None for value in ours["values"]) != 2 and ours["low"] <= published <= ours["high"]
    )  # two seeds give no useful interval
    return text + (" ≈" if within else "")


def explained(lines: Sequence[Beside]) -> list[str]:
    """What is known to differ: in all pairs, then one sentence for each."""
    each = [reasons(line.group, line.reference.protocol, line.reference.note) for line in lines]
    shared = [reason for reason in each[0] if all(reason in own for own in each)] if len(each) > 1 else []
    found = [f"Everywhere: {'; '.join(shared)}."] if shared else []
    for line, own in zip(lines, each, strict=True):
        if rest := [reason for reason in own if reason not in shared]:
            found.append(f"{line.group.label} and {line.reference.label} ({line.reference.cite}): {'; '.join(rest)}.")
    return found


def markdown(lines: Sequence[Beside]) -> str:
    head, *rows = table(lines)
    text = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name, *cells in rows:
        own = not name.startswith((PUBLISHED, DIFFERENCE))
        text.append("| " + " | ".join([f"**{markdown_text(name)}**" if own else markdown_text(name), *cells]) + " |")
    return "\n".join([*text, "", CAPTION, "", *(f"- {markdown_text(line)}" for line in explained(lines))]) + "\n"


def html(lines: Sequence[Beside]) -> str:
    """A section of the page; empty without lines."""
    if not lines:
        return ""
    head, *rows = table(lines)
    body = []
    for name, *cells in rows:
        kind = "published" if name.startswith(PUBLISHED) else "difference" if name == DIFFERENCE else "ours"
        body.append(
            f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(c)}</td>" for c in cells)}</tr>'
        )
    heads = [f'<th scope="col">{escape(text)}</th>' for text in head]
    return (
        f'<section id="published">\n<h2>Beside the published figures</h2>\n{html_table("beside", heads, body)}'
        f'<p class="caption">{escape(CAPTION)}</p>\n'
        f"<details open><summary>What differs besides</summary>{html_list(explained(lines))}</details>\n</section>\n"
    )


def terminal(lines: Sequence[Beside]) -> Table:
    """Average and worst class under the strongest attack that both have; within 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold")
    shown.add_column("beside the published figures", overflow="fold")
    for head in ("", "average", "worst class"):
        shown.add_column(head, justify="right", no_wrap=True)
    before = None
    for line in lines:
        theirs = line.reference.figures
        attack = next(
            (a for a in ("autoattack", "gain", "pgd20", "cw20", "clean") if {(a, "average"), (a, "worst")} & set(theirs)), ""
        )
        if not attack:
            continue
        keys = [(attack, figure) for figure in ("average", "worst")]
        if (line.group, attack) != before:
            name = "gain, PGD-20" if attack == "gain" else TITLES[attack]
            shown.add_row(escape_markup(line.group.label), name, *(spread(line.ours(*key)) for key in keys))
        before = (line.group, attack)
        quoted = [
            f"{100 * theirs[key]:.1f} ({_difference(line.ours(*key), theirs[key])})" if key in theirs else "" for key in keys
        ]
        cite = escape_markup(f"{line.reference.label}: {line.reference.cite}")
        shown.add_row(f"[dim]  {cite}[/dim]", "[dim]published[/dim]", *(f"[dim]{q}[/dim]" for q in quoted))
    return shown
