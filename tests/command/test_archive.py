"""`studies/archive.py`: a table's records taken to another machine."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, script

from fairat_lightning.commands.tables import recipes
from fairat_lightning.models import load_weights, preactresnet18
from fairat_lightning.record import journal
from fairat_lightning.record.reader import weights_file

RUNS = ROOT / "tests" / "runs" / "faal-night"


@pytest.fixture
def archive():
    return script("studies/archive.py")


def test_what_is_unpacked_is_finished_and_has_its_network(archive, tmp_path, monkeypatch):
    runs = tmp_path / "runs-with-a-picture"
    shutil.copytree(RUNS, runs)
    (runs / "pgd_at-s0" / "classes.png").touch()
    for name in ("a.tar.xz", "b.tar.xz"):
        archive.main(["pack", str(runs), str(tmp_path / name), "pgd_at-s0=cifar10_pgd_at_s0"])
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()
    monkeypatch.chdir(tmp_path)
    place = Path("runs/reproduce/faal-night")
    archive.main(["unpack", "a.tar.xz", str(place)])
    assert (place / "pgd_at-s0" / "metrics.json").read_bytes() == (RUNS / "pgd_at-s0" / "metrics.json").read_bytes()
    assert not (place / "pgd_at-s0" / "classes.png").exists()
    (job, *_) = recipes.parse(["table=faal", "budget=night", "rows=[pgd_at]", "data.root=data"]).jobs()
    assert recipes.finished(job)
    net = preactresnet18(num_classes=10, in_channels=3, mean=[0.0], std=[1.0], width=16)
    load_weights(net, weights_file(place / "pgd_at-s0"))


def test_a_run_that_is_there_is_left_alone(archive, tmp_path):
    archive.main(["pack", str(RUNS), str(tmp_path / "a.tar.xz")])
    mine = tmp_path / "runs" / "pgd_at-s0"
    mine.mkdir(parents=True)
    archive.main(["unpack", str(tmp_path / "a.tar.xz"), str(tmp_path / "runs")])
    assert not list(mine.iterdir())


@pytest.mark.parametrize(
    "words, line",
    [
        (["pack", "nowhere", "a.tar.xz"], "nowhere holds no finished run"),
        (["pack", str(RUNS), "a.tar.xz", "faal-s0=cifar10_faal_s0"], "faal-s0 is no finished run"),
        (["pack", str(RUNS), "a.tar.xz", "pgd_at-s0=cifar9"], "pretrained:cifar9 does not exist"),
        (["unpack", "a.tar.xz", "runs"], "a.tar.xz"),
    ],
)
def test_wrong_input_is_one_line(archive, words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"error: .*{line}"):
        archive.main(words)
    assert "archive" not in sys.modules


def test_the_verdicts_are_kept_and_the_losses_of_single_images_are_not(archive, tmp_path):
    path = tmp_path / journal.NAME
    batches = [journal.Batch("clean", [0, 1], [1, 1], [1, 0], [0.25, 1.5]), journal.Batch("pgd20", [0], [1], [1])]
    journal.write(path, {"config": {"seed": 0}}, batches)
    with archive.without_losses(path) as kept:
        assert journal.read(kept) == ({"config": {"seed": 0}}, [replace(batch, loss=None) for batch in batches])
    journal.write(path, {"config": {"seed": 0}}, batches[1:])
    with archive.without_losses(path) as kept:
        assert kept == path
