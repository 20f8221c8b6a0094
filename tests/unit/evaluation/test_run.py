"""What an evaluation draws and prints of what it found."""

import json

from helpers import judge

from fairat_lightning.evaluation.audit import Findings
from fairat_lightning.evaluation.run import _picture, show

EPS = [round(k / 100, 4) for k in range(12)]
KEYS = [f"pgd20@{value:.4g}" for value in EPS]


def test_a_sweep_is_shown_at_every_eps(tmp_path, capsys):
    """Drawn and printed: the bars were of the first three, and of more than eight nothing was printed at all."""
    judge(tmp_path / "sweep", {key: (0.9 - value, 0.8, 0.7) for key, value in zip(KEYS, EPS, strict=True)})
    metrics = json.loads((tmp_path / "sweep" / "metrics.json").read_text())
    titles = {key: f"eps {key[6:]}" for key in KEYS}
    found = Findings(metrics, titles, [], extra={"curve": {"eps": EPS, "keys": KEYS}})
    lines = {line.get_label(): line for line in _picture("sweep", found, dict(list(metrics.items())[:3])).axes[0].get_lines()}
    assert set(lines) == {"cat", "dog", "fox", "average"} and all(line.get_xdata().tolist() == EPS for line in lines.values())
    (tmp_path / "sweep" / "run.json").write_text(json.dumps({"titles": titles, "headline": [], "notes": [], "checks": []}))
    show(tmp_path / "sweep")
    out = capsys.readouterr().out
    assert all(title in out for title in titles.values()) and out.count("worst class") == 3
    assert all(len(line) <= 80 for line in out.splitlines() if "eps" in line)


def test_other_suites_are_drawn_as_bars(tmp_path):
    judge(tmp_path, {"clean": (0.9, 0.8, 0.7), "pgd20": (0.5, 0.4, 0.3)})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    figure = _picture("quick", Findings(metrics, {"clean": "clean", "pgd20": "PGD-20"}, ["clean", "pgd20"]), metrics)
    assert [len(bars) for bars in figure.axes[0].containers] == [3, 3]
