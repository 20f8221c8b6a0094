"""The benchmark's sides take steps: ours as it trains, and published code as it is re-stated."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import quick_for

BENCH = Path(__file__).resolve().parents[2] / "studies" / "bench"
OURS = ["data=synthetic", "data.train_size=32", "data.batch_size=16", "data.image_size=32", "data.test_size=4", "trainer=cpu"]
OURS += ["model=preactresnet18", "model.width=2"]
SIDES = {
    "ours": {"kind": "ours", "words": [*OURS, "method=fairat"]},
    "weights": {"kind": "ours", "words": [*OURS, "method=faal"], "off": "image-only gradients"},
    "published": {"kind": "published", "method": "faal", "width": 2, "batch_size": 16, "classes": 4},
}


@pytest.mark.parametrize("name", quick_for(list(SIDES)))
def test_a_side_takes_steps(name):
    asked = ["step", "step"] + (["count", "between", "profile"] if name == "ours" else [])
    done = subprocess.run(
        [sys.executable, BENCH / "side.py", json.dumps(SIDES[name])], input="\n".join(asked), capture_output=True, text=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 1 + len(asked), done.stderr[-2000:]
    assert all(answer["seconds"] > answer["fetching"] >= 0 for answer in answers[1:3])
    if name == "ours":
        assert answers[3]["flops"] > 1e7 and answers[3]["bytes"] > 1e6 and answers[4]["seconds"] > 0
        assert sum(share for _, share, _ in answers[5]["rows"]) <= 1.001
