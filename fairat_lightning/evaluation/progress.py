"""What an audit has done and how long the rest will take."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor


class Progress:
    """What is done and how long the rest will take, class by class, on the terminal; a line now and then where there is none.

    `plan` holds the cost of an image in each stage, in forward passes. The time of the stage at work follows from its own batches
    in this session, that of later ones from all attacks so far, on as many images as are left for them now.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = list(classes)
        self.plan: dict[str, float] = {}
        self.left: dict[str, int] = {}
        self.spent, self.measured, self.units, self.said = 0.0, 0.0, 0.0, time.perf_counter()
        self.rates: dict[str, tuple[float, float]] = {}  # seconds and forward passes of each stage
        self.live: Live | None = None

    def expect(self, plan: Mapping[str, float], images: int) -> None:
        """Stages to come with their cost per image, each of `images`."""
        self.plan |= plan
        self.left |= dict.fromkeys(plan, images)

    def report(self, title: str, accuracy: Tensor) -> None:
        """Print the accuracy of every class after a stage; of more than 20 classes the weakest ten."""
        known = [(a, name) for a, name in zip(accuracy.tolist(), self.classes, strict=True) if a == a]
        shown = known if len(known) <= 20 else sorted(known)[:10]
        line = "  ".join(f"{name} {100 * a:.1f}" for a, name in shown)
        text = f"{title}: average {100 * accuracy.nanmean():.1f}   {line}"
        if self.live is None:
            print(text, flush=True)
        else:
            self.live.console.print(Text(text))

    def begin(self, stage: str, images: int) -> None:
        self.plan.setdefault(stage, 1.0)
        self.left[stage] = images

    def shorten(self, stages: Sequence[str], images: int) -> None:
        """No more than `images` are left for any of `stages`."""
        self.left |= {stage: min(self.left[stage], images) for stage in stages}

    def step(self, stage: str, images: int, seconds: float, accuracy: Tensor) -> None:
        """`images` of `stage` took `seconds`; `accuracy` (C,) is that of the classes now, nan where unknown."""
        self.left[stage] -= images
        units = images * self.plan[stage]
        self.spent += seconds
        if self.plan[stage] > 1 or max(self.plan.values()) == 1:  # a single forward pass is mostly overhead, and says little
            self.measured, self.units = self.measured + seconds, self.units + units
        before = self.rates.get(stage, (0.0, 0.0))
        self.rates[stage] = (before[0] + seconds, before[1] + units)
        if self.live is not None:
            self.live.update(self._table(stage, accuracy))
        elif time.perf_counter() - self.said > 30:
            self.said = time.perf_counter()
            self.report(f"{stage}, {self.left[stage]:,} images left, {self.remaining()}", accuracy)

    def remaining(self) -> str:
        """The time to the end of the audit in words."""
        if not self.units:
            return "no time measured yet"
        seconds = 0.0
        for stage, cost in self.plan.items():
            spent, units = self.rates.get(stage, (self.measured, self.units))
            seconds += spent / units * self.left[stage] * cost
        hours, minutes = divmod(round(seconds / 60), 60)
        text = f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"
        return f"about {text} to go"

    def _table(self, stage: str, accuracy: Tensor) -> Group:
        table = Table(box=None)
        table.add_column("class")
        table.add_column("so far", justify="right")
        rows = sorted((a, name) for a, name in zip(accuracy.tolist(), self.classes, strict=True) if a == a)
        for a, name in rows[:20]:
            table.add_row(escape(name), f"{100 * a:.1f}")
        return Group(Text(f"{stage}: {self.left[stage]:,} images left   {self.remaining()}"), table)
