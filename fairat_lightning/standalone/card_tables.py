"""The figures of a model card: which attacks are shown, and class by class in Markdown tables.

Accuracies are in [0,1] in a record and in percent here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fairat_lightning.record.attack_titles import TITLES
from fairat_lightning.report.columns import eps_text
from fairat_lightning.report.measured import Threat, bounded, images, rank

WIDE = 7  # columns of figures that fit a page


@dataclass(frozen=True)
class Evaluation:
    """A record of figures: `summaries` by attack (`metrics.summary`), the threat model (norm, eps), what was said of them.

    `headline` are the keys for the first table, all without it; `settings` are those of the suite.
    """

    name: str
    summaries: Mapping[str, Any]
    threat: Threat
    titles: Mapping[str, str] = field(default_factory=dict)
    headline: Sequence[str] = ()
    notes: Sequence[str] = ()
    checks: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One attack of an evaluation; the same attack under the same threat model is shown once."""

    key: str
    title: str
    summary: Mapping[str, Any]
    of: Evaluation
    first: bool


def columns(evaluations: Sequence[Evaluation]) -> list[Column]:
    """Every attack of every evaluation; of one attack under one threat model the one that ranks highest."""
    found: dict[tuple[Any, ...], Column] = {}
    for e in evaluations:
        for key, summary in e.summaries.items():
            threat = e.threat if key != "clean" and bounded(e.summaries) else ()
            column = Column(key, e.titles.get(key, TITLES.get(key, key)), summary, e, key in e.headline or not e.titles)
            before = found.get((key, *threat))
            if before is None or rank(summary) > rank(before.summary):
                found[key, *threat] = replace(column, first=column.first or (before is not None and before.first))
    result = list(found.values())
    titles = [c.title for c in result]
    return [replace(c, title=f"{c.title} ({threat_text(c.of.threat)})") if titles.count(c.title) > 1 else c for c in result]


def class_tables(shown: Sequence[Column]) -> list[str]:
    """Markdown tables of at most WIDE attacks each: percent per class, average and worst class, intervals, bias."""
    return [_class_table(shown[i : i + WIDE]) for i in range(0, len(shown), WIDE)]


def _class_table(shown: Sequence[Column]) -> str:
    summaries = [c.summary for c in shown]
    rows = [["class", *(text(c.title) for c in shown)]]
    for name in dict.fromkeys(k for s in summaries for k in s["per_class"]):
        rows.append([text(name), *(_cell(s, s["per_class"].get(name), name) for s in summaries)])
    rows.append(["**average**", *(f"**{percent(s['average'])}**" for s in summaries)])
    rows.append(["interval", *(_interval(s, "average") for s in summaries)])
    rows.append(["**worst class**", *(f"**{percent(s['worst'])}**" for s in summaries)])
    rows.append(["interval", *(_interval(s, "worst") for s in summaries)])
    rows.append(["bias of the worst", *(percent(s.get("worst_bias"), sign=True) for s in summaries)])
    rows.append(["images", *(f"{images(s):,}" if images(s) else "–" for s in summaries)])
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---|" + "---:|" * len(shown), *body]) + "\n"


def text(value: Any) -> str:
    """Any text as one line of Markdown, with special characters escaped."""
    # An underscore inside a word is only that.
    return re.sub(r"([\\`*\[\]<>|#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", " ".join(str(value).split()))


def percent(value: float | None, *, sign: bool = False) -> str:
    """A share in [0,1] in percent, a dash for None."""
    return "–" if value is None else f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def _cell(summary: Mapping[str, Any], value: float | None, name: str) -> str:
    return f"**{percent(value)}**" if name == summary.get("worst_class") else percent(value)


def _interval(summary: Mapping[str, Any], figure: str) -> str:
    ends = summary.get("interval", {}).get(figure)
    return "–" if ends is None else f"{percent(ends[0])} to {percent(ends[1])}"


def threat_text(threat: Threat) -> str:
    """As in `linf, eps 8/255`, or `l2, eps 0.5` where four digits say it all."""
    norm, eps = threat
    return f"{norm}, eps {eps_text(eps)}"
