import json
import subprocess
from pathlib import Path

import pytest

import fairat_lightning
from fairat_lightning.record import writer as record
from fairat_lightning.record.atomic_write import write_json
from fairat_lightning.record.environment import environment


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_who_is_finished(tmp_path):
    config = {"seed": 0, "trainer": {}, "attack": {}, "method": {"radius": 0.5, "at": None, "share": [0.5, 0.75]}}
    folder = tmp_path / "run"
    assert not record.is_finished(folder, config)
    record.open_folder(folder, config, resume=None)
    assert not record.is_finished(folder, config)
    record.close_folder(folder, {"clean": {"average": 1.0, "worst": 1.0, "worst_class": "a", "per_class": {"a": 1.0}}}, seconds=3)
    assert record.is_finished(folder, config)
    with pytest.raises(ValueError, match="another configuration"):
        record.is_finished(folder, config | {"seed": 1})
    (folder / "metrics.json").write_text("[]")
    with pytest.raises(ValueError, match="metrics.json"):
        record.is_finished(folder, config)
    (folder / "checkpoints").mkdir()
    (folder / "mine.txt").write_text("")
    record.open_folder(folder, config, resume=None)
    assert {p.name for p in folder.iterdir()} == {"mine.txt", "config.yaml", "run.json"}


def test_the_environment_names_what_a_repetition_needs():
    found = environment(seed=7)
    assert found["seed"] == 7 and found["versions"]["torch"] and found["hardware"]["cores"] >= 1
    here = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(fairat_lightning.__file__).parent, capture_output=True, text=True
    )
    if here.returncode == 0:
        assert found["git"].removesuffix("+dirty") == here.stdout.strip()
    assert not any("KEY" in key.upper() for key in found)
