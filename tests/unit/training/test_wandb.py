"""W&B offline: what is logged is read back from the run's own file."""

import csv
import inspect
import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
import wandb
from helpers import SMALL, call, refused
from wandb.proto import wandb_internal_pb2

from fairat_lightning.training.wandb import Dashboard, wandb_logger


def parsed(data):
    """The records of an offline run: a 7-byte head, then 32 KiB blocks of chunks (checksum, length, kind), as in LevelDB."""
    found, place, part = [], 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4) and place <= len(data):  # a whole record, or its last chunk
            found.append(wandb_internal_pb2.Record())
            found[-1].ParseFromString(part)
            part = b""
    return found


def records(path):
    """The records of the ended offline run at `path`, waited for: on a busy machine W&B still writes when finish() returns."""
    for _ in range(300):
        found = parsed(path.read_bytes())
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.2)
    raise AssertionError(f"{path} has no end: {len(found)} records in a minute")


def sessions(folder):
    """The files of the offline runs in `folder`, in their order."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def logged(folder):
    """The rows of the offline runs in `folder`, one session after the other, and the configuration that they were given."""
    rows, config = [], {}
    for path in sessions(folder):
        for record in records(path):
            if record.history.item:
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                rows.append({key: json.loads(value) for key, value in items.items()})
            config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
    return rows, config


def ended(folder):
    """How W&B was told that each session has ended: its exit code, after "preempting" where it was told to stop."""
    kinds = [[(r.WhichOneof("record_type"), r.exit.exit_code) for r in records(path)] for path in sessions(folder)]
    return [[code if kind == "exit" else kind for kind, code in one if kind in ("exit", "preempting")] for one in kinds]


def history(folder):
    """How often each key was logged in the offline runs in `folder`."""
    keys: dict[str, int] = {}
    for row in logged(folder)[0]:
        for key in row:
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
    keys = history(folder)
    for key in ("train/loss", "val/robust_worst", "val/robust_class/class_0", "train/class_weight/class_3"):
        assert keys[key] == 2, key
    joined = " ".join(keys)
    assert keys["val/classes/_type"] == keys["test/classes/_type"] == 1, "the last validation's and the test's"
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


def test_a_dashboard_can_group_filter_and_rank_runs_and_has_a_row_an_epoch(launch):
    """By what was set and by the classes of its parts, by the test's figures and by the epoch that was kept."""
    folder, metrics = launch("method=faal", "objective=trades", "logger=wandb", "seed=3")
    rows, config = logged(folder)
    assert (config["seed"], config["optim"]["lr"], config["data"]["train_size"]) == (3, 0.1, 64) and "logger" not in config
    names = {"method": "FAAL", "objective": "TRADES", "data": "synthetic", "model": "preactresnet_tiny", "attack": "PGD"}
    assert names.items() <= config["names"].items()
    *epochs, last = rows
    assert [(row["epoch"], row["_step"], row["trainer/global_step"]) for row in epochs] == [(0, 2, 2), (1, 4, 4)]
    assert (last["_step"], last["trainer/global_step"]) == (5, 5)
    assert all({"val/robust_worst", "train/loss", "lr", "seconds"} <= row.keys() for row in epochs)
    for key, summary in metrics.items():
        assert (rows[-1][f"test/{key}"], rows[-1][f"test/{key}_worst"]) == (summary["average"], summary["worst"])
    kept = json.loads((folder / "run.json").read_text())["selected_epoch"]
    assert rows[-1]["kept/epoch"] == kept and rows[-1]["kept/robust_worst"] == pytest.approx(rows[kept]["val/robust_worst"])
    assert ended(folder) == [[0]]


def test_wandb_is_told_how_a_run_has_ended(launch, monkeypatch, tmp_path):
    from fairat_lightning.methods.base import Method

    def stop(*args):
        os.kill(os.getpid(), signal.SIGTERM)

    for act, told in ((stop, ["preempting", 75]), (lambda *args: {}["stop"], [1])):
        with monkeypatch.context() as patch, pytest.raises((KeyError, SystemExit)):
            patch.setattr(Method, "on_validation_epoch_start", act)
            launch("logger=wandb", folder=f"run{told[-1]}")
        assert ended(tmp_path / f"run{told[-1]}") == [told]


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
    paths = sessions(folder)
    told = [record for path in paths for record in records(path)]
    assert len(paths) == 2 and len({record.run.run_id for record in told if record.run.run_id}) == 1
    assert history(folder)["val/robust_worst"] == 2
    steps = [row["_step"] for row in logged(folder)[0]]
    assert steps == sorted(steps) and steps[-1] == 5, "the second session goes on counting"


def test_an_epochs_row_is_sent_at_its_end_and_a_run_that_w_and_b_has_goes_on_after_its_last_row(monkeypatch, tmp_path):
    """W&B passes over what is logged before the row that it has reached."""
    sent = []
    run = SimpleNamespace(starting_step=5, log=lambda values, step, commit: sent.append((sorted(values)[0], step, commit)))
    monkeypatch.setattr(Dashboard, "experiment", run)
    logger = Dashboard(save_dir=tmp_path, mode="offline", name="x")
    logger.log_metrics({"test/clean": 1.0}, 4)
    logger.log_metrics({"val/robust": 1.0}, 5)
    logger.log_metrics({"lr": 1.0}, 6)
    logger.log_metrics({"train/loss": 1.0}, 5)
    logger.log_metrics({"val/robust": 1.0}, 7)
    assert sent == [
        ("test/clean", 5, None),
        ("trainer/global_step", 6, None),
        ("lr", 6, None),
        ("train/loss", 6, True),
        ("trainer/global_step", 8, None),
    ]


def test_a_training_that_a_callback_ends_has_the_tables_of_its_last_validation(launch):
    stop = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/robust, patience: 1, stopping_threshold: 0.0}"
    folder, _ = launch("logger=wandb", "trainer.max_epochs=5", f"callbacks=[{stop}]")
    keys = history(folder)
    assert keys["val/robust_worst"] < 5 and keys["val/classes/_type"] == 1


def test_tensorboard_and_csv_get_settings_and_test(launch):
    own = "+logger.csv={_target_: lightning.pytorch.loggers.CSVLogger, name: csv}"
    folder, metrics = launch("logger=tensorboard", own)
    rows = list(csv.DictReader(next(folder.rglob("metrics.csv")).open()))
    assert float(rows[-1]["test/pgd20_worst"]) == metrics["pgd20"]["worst"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(folder.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    assert "test/pgd20_worst" in events.Tags()["scalars"]
    assert "_hparams_/session_start_info" in events.summary_metadata


WRONG = {
    "logger.wandb.project=a/b": "Invalid project name 'a/b'",
    f"logger.wandb.tags=[{'x' * 65}]": "logger.wandb.tags: Value error, Tag",
    "logger.wandb.tags=a": "logger.wandb.tags=a must be a list",
}


@pytest.mark.parametrize("word", WRONG)
def test_what_wandb_would_refuse_is_refused_before_the_run(monkeypatch, capsys, tmp_path, word):
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, "logger=wandb", word, "hydra.run.dir=run")
    refused(code, err, WRONG[word])
    assert not (tmp_path / "run").exists()


def test_a_key_of_another_form_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, "logger=wandb", "hydra.run.dir=run")
    refused(code, err, "WANDB_API_KEY")
    assert not (tmp_path / "run").exists()


def test_the_projects_variable_counts_and_numbers_are_names(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_PROJECT", "fair")
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    words = {"project": None, "entity": None, "offline": None, "save_dir": tmp_path, "name": "7"}
    run = wandb_logger(**words, group=3, tags=[1, 2], job_type="train").experiment
    assert (run.project, run.group, run.tags, run.job_type, run.offline) == ("fair", "3", ("1", "2"), "train", True)
    wandb.finish()


@pytest.mark.slow
def test_training_goes_on_where_wandb_cannot_be_reached(launch, monkeypatch, capsys):
    """In the same W&B run, and the jobs after it do not wait again."""
    from fairat_lightning.training import wandb as dashboards

    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setattr(dashboards, "TIMEOUT", 3)
    monkeypatch.setattr(dashboards, "GIVEN_UP", [])
    words = ("logger=wandb", "logger.wandb.offline=false")
    folders = [launch(*words, f"seed={seed}", folder=f"run{seed}")[0] for seed in (0, 1)]
    said = [line for line in capsys.readouterr().out.splitlines() if "W&B cannot be reached" in line]
    assert len(said) == 1 and "wandb sync" in said[0]
    for folder in folders:
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        assert path.stem.endswith((folder / "wandb" / "id").read_text())
