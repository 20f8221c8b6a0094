"""W&B offline: what is logged is read back from the run's own file."""

import inspect
import json
import time

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from fairat_lightning.training.wandb import wandb_logger


def records(path):
    """The records of an offline run: a 7-byte head, then 32 KiB blocks of chunks (checksum, length, kind), as in LevelDB."""
    data, place, part = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last chunk
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            yield record
            part = b""


def history(folder):
    """How often each key was logged in the one offline run in `folder`."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    keys: dict[str, int] = {}
    for record in records(path):
        for item in record.history.item:
            key = item.key or "/".join(item.nested_key)
            keys[key] = keys.get(key, 0) + 1
    return keys


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_wandb_is_given_what_it_takes_and_warns_of_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_SILENT", "false")
    given = {}
    begin = wandb.init

    def init(**settings):
        given.update(settings)
        return begin(**settings)

    monkeypatch.setattr(wandb, "init", init)
    assert wandb_logger(project="x", entity=None, offline=True, save_dir=tmp_path, name="y").experiment is not None
    wandb.finish()
    assert given.keys() <= inspect.signature(begin).parameters.keys() - {"anonymous"} and given["project"] == "x"
    said = capsys.readouterr()
    assert "WARNING" not in said.out + said.err


def test_a_run_logs_bars_confusion_and_weights_and_is_finished(launch):
    folder, _ = launch("method=faal", "logger=wandb")
    assert wandb.run is None, "a run that stays open swallows the next job of a sweep"
    # On a busy machine W&B's own process may still be writing when finish() returns.
    for _ in range(100):
        keys = history(folder)
        if "report/table/_type" in keys:
            break
        time.sleep(0.2)
    for key in ("train/loss", "val/robust_worst", "val/robust_class/class_0", "train/class_weight/class_3"):
        assert keys[key] == 2, key
    joined = " ".join(keys)
    assert keys["val/classes/_type"] == 2 and keys["test/classes/_type"] == 1
    shown = {key.removesuffix("/_type") for key in keys}
    assert {"test/examples", "report/table"} <= shown
    assert {f"report/{name}" for name in ("class_accuracies", "training", "confusion", "class_weights")} <= shown
    (media,) = folder.glob("wandb/offline-run-*/files/media")
    assert len(list((media / "images" / "test").iterdir())) == 4, "an image of each class"
    table = json.loads(next((media / "table" / "val").glob("classes_*")).read_text())
    assert table["columns"] == ["class", "clean", "robust"] and [row[0] for row in table["data"]] == [
        f"class_{k}" for k in range(4)
    ]
    for figure in ("val/robust_bars", "val/robust_confusion", "test/pgd20_confusion", "test/cw20_bars"):
        assert figure in joined, figure


def test_two_jobs_are_two_runs(launch):
    first, _ = launch("logger=wandb", folder="first")
    second, _ = launch("logger=wandb", "seed=1", folder="second")
    names = [next(f.glob("wandb/offline-run-*")).name.rpartition("-")[2] for f in (first, second)]
    assert names[0] != names[1]


def test_tensorboard_writes_its_events(launch):
    folder, _ = launch("logger=tensorboard")
    assert list(folder.rglob("events.out.tfevents.*"))


def test_a_resumed_run_is_the_same_wandb_run_and_logs_no_epoch_twice(launch, monkeypatch, tmp_path):
    from fairat_lightning.methods.base import Method

    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(Method, "test_step", lambda *args: {}["stop"])
        launch("logger=wandb")
    folder, _ = launch("logger=wandb")
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"))  # a session within the same second gets "-1" after its name
    told = [record for path in paths for record in records(path)]
    assert len(paths) == 2 and len({record.run.run_id for record in told if record.run.run_id}) == 1
    logged = [item.key or "/".join(item.nested_key) for record in told for item in record.history.item]
    assert logged.count("val/robust_worst") == 2


@pytest.mark.slow
def test_training_goes_on_where_wandb_cannot_be_reached(launch, monkeypatch, capsys):
    from fairat_lightning.training import wandb as dashboards

    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setattr(dashboards, "TIMEOUT", 3)
    folder, _ = launch("logger=wandb", "logger.wandb.offline=false")
    said = [line for line in capsys.readouterr().out.splitlines() if "W&B cannot be reached" in line]
    assert len(said) == 1 and "wandb sync" in said[0]
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
