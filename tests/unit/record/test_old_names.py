"""A folder of version 0.1, whose configurations name classes by the modules they were in, is used as any other."""

import json
import pkgutil
import shlex
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from helpers import ROOT, call, other

from fairat_lightning import __version__
from fairat_lightning.record.old_names import BEFORE, NOW, at_first, today

OLD = ROOT / "tests" / "runs" / "version_0_1"
SUITES = ("apgd", "autoattack", "corruptions", "quick", "standard", "sweep")


def words_of(folder: Path) -> list[str]:
    """The words of the command in a record."""
    return shlex.split(json.loads((folder / "run.json").read_text())["command"])[3:]


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of the folder, which is the working directory of the commands."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("before", NOW)
def test_every_old_name_stands_for_a_class_of_today(before):
    assert pkgutil.resolve_name(NOW[before])
    with pytest.raises((ImportError, AttributeError)):
        pkgutil.resolve_name(before)
    assert BEFORE[NOW[before]] == before


def test_names_change_wherever_they_stand_and_nothing_else_does():
    config = {"suite": {"_target_": "fairat_lightning.suites.Standard", "list": [{"_target_": "torch.nn.ReLU"}]}, "note": "x"}
    assert today(config)["suite"]["_target_"] == "fairat_lightning.evaluation.suites.StandardSuite"
    assert at_first(today(config)) == config and today({"note": "fairat_lightning.suites.Quick"}) == {
        "note": "fairat_lightning.suites.Quick"
    }


def test_its_training_is_found_finished(old, monkeypatch, capsys):
    before = contents(old)
    code, out, err = call(monkeypatch, capsys, old, *words_of(old / "finished"))
    assert (code, err) == (0, "") and "This run is finished" in out and contents(old) == before


@pytest.mark.parametrize("suite", SUITES)
def test_each_of_its_evaluations_is_found_finished(old, monkeypatch, capsys, suite):
    folder = old / "finished" / "evaluation" / suite
    assert "fairat_lightning.evaluation." not in (folder / "config.yaml").read_text(), "else it is none of an earlier version"
    same_torch(folder / "samples.jsonl")
    before = contents(old)
    code, out, err = call(monkeypatch, capsys, old, *words_of(folder), command="evaluate")
    assert (code, err) == (0, "") and "This evaluation is finished" in out and contents(old) == before


def test_an_evaluation_that_was_stopped_goes_on(old, monkeypatch, capsys):
    folder = old / "finished" / "evaluation" / "quick"
    same_torch(folder / "samples.jsonl")
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:-1]))
    (folder / "metrics.json").unlink()
    code, out, err = call(monkeypatch, capsys, old, *words_of(folder), command="evaluate")
    assert (code, err) == (0, "") and f"resumed: {len(lines) - 2} finished batches are kept" in out
    assert (folder / "samples.jsonl").read_text().splitlines(keepends=True)[:-1] == lines[:-1]


def test_its_stopped_training_goes_on(old, monkeypatch, capsys):
    first = (old / "stopped" / "history.csv").read_text().splitlines()
    code, out, err = call(monkeypatch, capsys, old, *words_of(old / "stopped"))
    assert (code, err) == (0, "") and "resumed" in out
    rows = (old / "stopped" / "history.csv").read_text().splitlines()
    assert rows[: len(first)] == first and len(rows) == 4
    assert len(json.loads((old / "stopped" / "run.json").read_text())["resumed"]) == 1


def test_it_is_reported_and_exported_as_before(old, monkeypatch, capsys):
    assert other(monkeypatch, capsys, old, "report", "finished", "--to", "page")[0] == 0
    titles = json.loads((old / "page" / "table.json").read_text())["rows"][0]
    assert {"apgd_worst", "square_worst", "pgd100_worst", "corruptions_worst"} <= set(titles)
    assert other(monkeypatch, capsys, old, "export", "checkpoint=finished", "to=again")[0] == 0
    for name in ("model.safetensors", "model.py", "README.md"):
        before, now = ((old / place / name).read_bytes() for place in ("exported", "again"))
        for by in (b"Written by", b"exported by"):
            before = before.replace(by + b" fairat_lightning 0.1.0", by + f" fairat_lightning {__version__}".encode())
        assert now == before, name


def same_torch(path: Path) -> None:
    """Let a journal say that it was begun with the torch of this machine, which may be another build."""
    head, *rest = path.read_text().splitlines(keepends=True)
    line = json.loads(head)
    line["torch"] = torch.__version__
    del line["crc"]
    crc = zlib.crc32(json.dumps(line, separators=(",", ":")).encode())
    path.write_text("".join([json.dumps({**line, "crc": crc}, separators=(",", ":")) + "\n", *rest]))
