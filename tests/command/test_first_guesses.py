"""What users type and bring in the ways they think of first: it does what it says, or one line refuses it and nothing is lost."""

import shutil
import threading

import hydra
import pytest
import torch
from helpers import SMALL, call, other, refused

import fairat_lightning as fl
from fairat_lightning.config.compose import compose_training
from fairat_lightning.data import DataModule
from fairat_lightning.data.images import Images, Splits
from fairat_lightning.evaluation.result import Result
from fairat_lightning.record.reader import run_folder
from fairat_lightning.record.secrets import redacted, refuse_secrets

ONE = (*SMALL, "trainer.max_epochs=1")


class Small(torch.nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.last = torch.nn.Linear(3, classes)

    def forward(self, x):
        return self.last(x.mean((2, 3)))


@pytest.fixture
def images():
    return torch.rand(30, 3, 4, 4), torch.arange(30) % 3


@pytest.mark.parametrize("config", [None, "model: {name: theirs}\n"], ids=["no configuration", "somebody else's"])
def test_overwrite_deletes_nothing_that_is_of_no_run(tmp_path, monkeypatch, capsys, config):
    thesis = tmp_path / "mine" / "checkpoints" / "thesis.pt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    if config:
        (tmp_path / "mine" / "config.yaml").write_text(config)
    for words in ((), ("overwrite=true",)):
        code, _, err = call(monkeypatch, capsys, tmp_path, *ONE, "hydra.run.dir=mine", *words)
        refused(code, err, "of no run of this package")
        assert "overwrite=true" not in err and thesis.read_text() == "years of work"


def test_an_empty_folder_name_is_refused(tmp_path, monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, tmp_path, *ONE, "hydra.run.dir=")
    refused(code, err, "hydra.run.dir= is empty")
    for words in (("",), ("PGD-AT=",), ("runs", "--to=")):
        code, err = other(monkeypatch, capsys, tmp_path, "report", *words)
        assert code == 2 and "names no folder" in err
    assert list(tmp_path.iterdir()) == []


def test_overwrite_does_not_take_an_evaluation_for_a_run(images, tmp_path, monkeypatch, capsys):
    kept = fl.benchmark(Small(), images, eps="8/255").save(tmp_path / "kept")
    before = sorted(path.name for path in kept.iterdir())
    code, _, err = call(monkeypatch, capsys, tmp_path, *ONE, "hydra.run.dir=kept", "overwrite=true")
    refused(code, err, "of no run of this package")
    assert before == sorted(path.name for path in kept.iterdir())


def test_a_result_saved_where_it_is_stays(images, tmp_path):
    kept = fl.benchmark(Small(), images, eps="8/255").save(tmp_path / "kept")
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    Result.read(kept).save(kept)
    assert before and before == {path.name: path.read_bytes() for path in kept.iterdir()}


@pytest.mark.parametrize("word", ["samples_per_class=2", "in_full=[class_1]", "split=train", "data=cifar10", "to=x"])
def test_benchmark_refuses_settings_that_it_would_not_obey(images, word):
    with pytest.raises(ValueError, match="benchmark has no setting"):
        fl.benchmark(Small(), images, eps="8/255", overrides=[word])


def splits(names):
    part = Images(torch.zeros(30, 3, 8, 8, dtype=torch.uint8), torch.arange(30) % 3)
    return lambda root: Splits(part, part, names)


def test_names_of_classes_become_text_and_are_all_different(images):
    data = DataModule(splits([0, 1, 2]), val_per_class=1)
    data.prepare()
    assert data.classes == ["0", "1", "2"]
    with pytest.raises(ValueError, match="a occurs twice"):
        DataModule(splits(["a", "a", "c"]), val_per_class=1).prepare()

    class Twice(torch.utils.data.TensorDataset):
        classes = ["crane", "dog", "crane"]

    with pytest.raises(ValueError, match="crane occurs twice"):
        fl.benchmark(Small(), Twice(*images), eps="8/255")


def test_a_refused_method_leaves_the_network_as_it_was():
    net = Small()
    with pytest.raises(ValueError, match="radius"):
        fl.method("faal", net, classes=5, eps="8/255", overrides=["method.radius=-1"])
    assert net(torch.rand(2, 3, 4, 4)).shape == (2, 3) and not net._forward_hooks


@pytest.mark.parametrize("word", ["averaging=ema", "head=balanced"])
def test_a_method_refuses_what_only_a_whole_training_has(word):
    with pytest.raises(ValueError, match="use fl.train"):
        fl.method("faal", Small(), classes=3, eps="8/255", overrides=[word])


@pytest.mark.parametrize(
    "given, said",
    [
        ("optim.lr=interval(0.2,0.1)", "the first number must be below the second"),
        ("optim.lr=tag(log,interval(0,0.1))", "above 0 on a logarithmic scale"),
        ("optim.lr=range(0.1,0.1,0.1)", "the range is empty"),
    ],
)
def test_a_range_that_cannot_be_searched_is_refused_before_there_is_a_study(tmp_path, monkeypatch, capsys, given, said):
    pytest.importorskip("optuna")
    code, err = other(monkeypatch, capsys, tmp_path, "search", *ONE, given, "trials=1")
    refused(code, err, said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["sweep", "search"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys, command):
    pytest.importorskip("optuna")
    (tmp_path / "runs").write_text("a file")
    if command == "search":
        code, err = other(monkeypatch, capsys, tmp_path, "search", *ONE, "optim.lr=interval(0.1,0.2)", "trials=1")
    else:
        code, _, err = call(monkeypatch, capsys, tmp_path, "-m", *ONE, "seed=0,1")
    refused(code, err, {"sweep": "the sweep's folder cannot be created", "search": "storage="}[command])


@pytest.mark.parametrize("text, said", [("class Net(:\n", "SyntaxError"), ("1 / 0\n", "ZeroDivisionError")])
def test_a_fault_in_a_module_of_ones_own_names_its_line(tmp_path, monkeypatch, capsys, text, said):
    (tmp_path / "faulty.py").write_text("import math\n" + text)
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = call(monkeypatch, capsys, tmp_path, *ONE, "model._target_=faulty.Net", "allow=[faulty.]")
    refused(code, err, said)
    assert "faulty.py, line 2" in err


def test_flags_may_stand_between_settings_and_config_dir_may_be_given_twice(tmp_path, monkeypatch, capsys):
    for folder, group, name in (("it's one", "method", "mine"), ("two", "objective", "ours")):
        (tmp_path / folder / group).mkdir(parents=True)
        base = {"method": "pgd_at", "objective": "at"}[group]
        (tmp_path / folder / group / f"{name}.yaml").write_text(f"defaults: [{base}]\n")
    words = ("--config-dir", "it's one", "method=mine", "--cfg", "job", "objective=ours", "--config-dir", "two", "seed=3")
    code, out, err = call(monkeypatch, capsys, tmp_path, *words)
    assert code == 0 and "seed: 3" in out, err
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "here.yaml").write_text("defaults: [faal]\n")
    assert call(monkeypatch, capsys, tmp_path, "--config-dir", ".", "method=here", "--cfg", "job")[0] == 0


def test_it_composes_within_another_application_of_hydra_and_in_threads(tmp_path):
    (tmp_path / "theirs.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose_training(["data=synthetic"], say=False)[0].data.batch_size
        assert hydra.compose("theirs", overrides=[]).a == 1  # theirs again
    found = []
    threads = [threading.Thread(target=lambda: found.append(len(fl.load_data(["data=digits"]).classes))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [10] * 4


def test_a_number_of_tokens_is_no_secret():
    refuse_secrets({"num_tokens": 8, "class_token": True, "token": None})
    with pytest.raises(ValueError, match="token must not be"):
        refuse_secrets({"model": {"token": "hf_abc"}})
    assert redacted("model.num_tokens=8") == "model.num_tokens=8" and redacted("model.class_token=true").endswith("true")
    assert redacted("logger.token=hf_abc") == "logger.token=***" and redacted("logger.password=1234") == "logger.password=***"
    with pytest.raises(ValueError, match="password must not be"):
        refuse_secrets({"password": 1234})


def test_a_run_is_known_however_its_checkpoint_is_named(trained, tmp_path, monkeypatch):
    folder = tmp_path / "v1.2"
    folder.symlink_to(trained()[0])
    monkeypatch.chdir(folder / "checkpoints")
    assert run_folder("best.ckpt").resolve() == folder.resolve()
    (tmp_path / "linked.ckpt").symlink_to(folder / "checkpoints" / "best.ckpt")
    assert run_folder(str(tmp_path / "linked.ckpt")).resolve() == folder.resolve()


def test_the_evaluation_of_a_run_with_a_dot_in_its_name_has_the_usual_place(trained, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "v1.2"
    folder.symlink_to(shutil.copytree(trained()[0], tmp_path / "copy"))
    assert other(monkeypatch, capsys, tmp_path, "evaluate", "checkpoint=v1.2", "samples_per_class=1")[0] == 0
    assert [place.name for place in (folder / "evaluation").iterdir()] == ["quick"]
