"""What two rows say of each other, in one plain sentence that a reader can quote: computed, with its interval and its p."""

from statistics import mean

from fairat_lightning.bootstrap import Comparison
from fairat_lightning.report.groups import LOWEST, lowest
from fairat_lightning.report.runs import Group
from fairat_lightning.report.significance import compared, difference, figures_of, pairs, shared_seed, significant


def sentence(base: Group, other: Group, key: str, title: str) -> str:
    """Whether `other` raises or lowers the weakest class of `base` under the attack `key`, and what the average does.

    Below p = .05 a gain or a loss; else that no difference could be shown; where there is no test, why.
    """
    figure = lowest([base, other], key)
    after, before = (mean(values) if values else None for values in figures_of(other, base, key, figure))
    found = compared(other, base, key, figure)
    if before is None or after is None or isinstance(found, str):
        gap = "" if before is None or after is None else f" ({LOWEST[figure]} {points(after - before)} points)"
        return f"Not tested: whether {other.label} is fairer than {base.label} under {title}{gap}; {found}."
    weakest = _weakest(base, other, key) if figure == "worst" else f"the {LOWEST[figure]}"
    low, high = f"{100 * before:.1f} %", f"{100 * after:.1f} %"
    if significant(found):
        verb, change, sign = ("raises", "gain", 1) if found.difference > 0 else ("lowers", "loss", -1)
        text = f"{other.label} {verb} {weakest} from {low} with {base.label} to {high} under {title}"
    else:
        change, sign = "difference", 1
        text = f"No difference could be shown between {other.label} and {base.label} in {weakest} under {title}"
        text += f": {low} with {base.label} and {high} with {other.label}"
    if (seed := shared_seed(base, other)) is not None:
        text += f" in seed {seed}, which both have"
    interval = span(*sorted((sign * found.low, sign * found.high)))
    text += f" (95 % interval of the {change} {interval} points, {p_value(found.p)}, {_test(found, base, other, key)})"
    if (average := difference(other, base, key, "average")) is not None:
        text += f", and {'' if significant(found) else f'{other.label} '}{_average(average)}"
    return f"{text}."


def points(value: float, sign: str = "+") -> str:
    """ "+14.7", a difference in percentage points; "0.0", without a sign, for what rounds to nothing."""
    text = f"{100 * value:{sign}.1f}"
    return text.replace("-", "−") if float(text) else "0.0"


def span(low: float, high: float) -> str:
    """ "−2.1 to 14.7", an interval in percentage points."""
    return f"{points(low, '')} to {points(high, '')}"


def p_value(p: float) -> str:
    """ "p = .004", "p < .001": two digits from .1 on, three below."""
    return "p < .001" if p < 0.001 else f"p = {f'{p:.{3 if p < 0.1 else 2}f}'.removeprefix('0')}"


def _weakest(base: Group, other: Group, key: str) -> str:
    """ "the weakest class (8)": its name where it is the same one in all seeds of `base`; said to be of `base` alone if so."""
    together = pairs(base, other)
    both = zip(*together, strict=True) if together else (base.runs, other.runs)
    mine, others = ({run.summaries[key]["worst_class"] for run in runs if key in run.summaries} for runs in both)
    if len(mine) > 1:
        return "the weakest class (which differs between seeds)"
    whose = "" if mine == others else f" with {base.label}"
    return f"the weakest class ({mine.pop()}{whose})"


def _average(found: Comparison) -> str:
    text = f"{'gains' if found.difference > 0 else 'costs'} {points(abs(found.difference), '')} points on average"
    return text + (f" ({p_value(found.p)})" if significant(found) else f", which may be chance ({p_value(found.p)})")


def _test(found: Comparison, base: Group, other: Group, key: str) -> str:
    """What p is of: the images of these networks, or trainings from so many seeds of each row."""
    if found.test == "paired":
        return f"paired test of the {base.images}"
    counts = map(len, figures_of(base, other, key, "worst"))
    return f"Welch's test of {' and '.join(map(str, dict.fromkeys(counts)))} seeds"
