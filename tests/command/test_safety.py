"""Nothing that is read runs code or leaves its folder, and no secret is written."""

import io
import json
import pickle
import pkgutil
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT, SMALL, call

import fairat_lightning
from fairat_lightning.commands.one_run import run
from fairat_lightning.config.targets import OURS_TO_CALL, PIECES, check_targets
from fairat_lightning.data import sets
from fairat_lightning.models.weights import load_weights
from fairat_lightning.record.secrets import redacted


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def evil(tmp_path):
    return Evil(tmp_path / "ran")


@pytest.mark.parametrize("name", ["net.pt", "net.ckpt", "net.pth", "net.safetensors", "old.pt"])
@pytest.mark.parametrize("way", ["init_from", "teacher", "evaluate", "export"])
def test_a_malicious_pickle_is_refused_and_does_not_run(monkeypatch, capsys, tmp_path, evil, name, way):
    if name == "old.pt":
        (tmp_path / name).write_bytes(pickle.dumps({"state_dict": evil}))
    else:
        torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "x": evil}, tmp_path / name)
    words = {
        "init_from": [*SMALL, f"init_from={name}"],
        "teacher": [*SMALL, "method=fair_ard", f"method.teacher={name}"],
        "evaluate": [f"checkpoint={name}", "data=synthetic"],
        "export": [f"checkpoint={name}", "data=synthetic", "to=out"],
    }[way]
    if way in ("evaluate", "export"):
        from fairat_lightning.commands import evaluate as judge
        from fairat_lightning.commands import export

        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError) as refused:
            {"evaluate": judge, "export": export}[way].main(words)
        said = str(refused.value)
    else:
        code, _, said = call(monkeypatch, capsys, tmp_path, *words)
        assert code == 2
    assert name in said and said.strip().count("\n") == 0
    assert {p.name for p in tmp_path.iterdir()} == {name}
    torch.load(io.BytesIO(_pickled(evil)), weights_only=False)
    assert (tmp_path / "ran").exists(), "the same file, read by a careless reader, runs"


def _pickled(evil) -> bytes:
    content = io.BytesIO()
    torch.save(evil, content)
    return content.getvalue()


def test_a_malicious_checkpoint_in_a_run_s_folder_does_not_run(compose, launch, tmp_path, capsys, evil, monkeypatch):
    folder, _ = launch()
    for name in ("best.ckpt", "last.ckpt"):
        saved = torch.load(folder / "checkpoints" / name, weights_only=True)
        torch.save(saved | {"callbacks": evil}, folder / "checkpoints" / name)
    (folder / "metrics.json").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(compose(*SMALL), folder)
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "ran").exists()


OUTSIDE = (
    *("os.system", "builtins.eval", "shutil.rmtree", "subprocess.Popen", "${oc.env:HOME}", "fairat_lightningx.models.net"),
    *(
        "torch.hub.load",
        "torch.load",
        "torch.os.system",
        "torch.nn.utils.rnn.warnings.warn",
        "lightning.pytorch.cli.LightningCLI",
    ),
    *("torch.optim.optimizer.functools.partial", "fairat_lightning.record.writer.open_folder", "fairat_lightning.data.sets.Path"),
    *("fairat_lightning.record.writer.subprocess.run", "fairat_lightning.data.folders.os.remove"),
    "fairat_lightning.models.weights.torch.load",
    *("fairat_lightning.methods.parts.cuda_graph.Captured", "fairat_lightning.methods.parts.hard_examples.HardExamples"),
    "fairat_lightning.methods.parts.worst_case.WorstCase",
    *("fairat_lightning.methods.parts.HardExamples", "fairat_lightning.models.checked_logits.Checked"),
    *("fairat_lightning.models.logits.Pick", "fairat_lightning.models.weight_sets.WeightSet"),
)


@pytest.mark.parametrize("target", OUTSIDE)
@pytest.mark.parametrize("place", ["model", "data.load", "trainer.callbacks"])
def test_no_configuration_calls_what_is_not_ours(target, place):
    node = {"_target_": target}
    for key in reversed(place.split(".")):
        node = {key: [node] if key == "callbacks" else node}
    with pytest.raises(ValueError, match="is not allowed"):
        check_targets(node)


def test_no_module_is_opened_to_configurations_by_its_place_alone():
    """A new one below a prefix that is allowed is thought about: it belongs here, or to `targets.PIECES`."""
    found = {module.name + "." for module in pkgutil.walk_packages(fairat_lightning.__path__, "fairat_lightning.")}
    opened = {name.removeprefix("fairat_lightning.").rstrip(".") for name in found if name.startswith(OURS_TO_CALL)}
    opened -= {name.removeprefix("fairat_lightning.").rstrip(".") for name in found if name.startswith(PIECES)}
    methods = {f"methods.{place.stem}" for place in (ROOT / "fairat_lightning" / "methods").glob("[a-z]*.py")}
    assert opened == methods | {
        *("attacks", "averaging", "awp", "head", "objectives", "optim", "data", "methods", "models", "training.wandb"),
        *("evaluation.autoattack", "evaluation.corruptions", "evaluation.suites"),
        *(f"data.{name}" for name in ("batches", "folders", "images", "module", "sets", "stratified", "synthetic")),
        *(f"models.{name}" for name in ("from_timm", "gradient_checkpointing", "normalized", "resnet", "weights", "wide_resnet")),
    }


def test_a_stored_configuration_names_our_own_parts_alone(launch, monkeypatch, tmp_path):
    from fairat_lightning.commands import evaluate as judge

    folder, _ = launch()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    changes = (
        ({"model": {"_target_": "timm.create_model", "checkpoint_path": "evil.pt"}}, "timm.create_model is not allowed"),
        ({"model": {"_target_": "torch.nn.Identity"}}, "not allowed"),
        (
            {"data": {**config["data"], "load": {"_target_": "fairat_lightning.data.folders.os.remove", "path": "x"}}},
            "not allowed",
        ),
        ({"attack": {**config["attack"], "eps": "${oc.env:HOME}"}}, "not the configuration of a run"),
        ({"attack": None}, "has no attack"),
    )
    for change, said in changes:
        (folder / "config.yaml").write_text(yaml.safe_dump(config | change))
        with pytest.raises(ValueError, match=said):
            judge.main([f"checkpoint={folder}", "samples_per_class=2"])
    with pytest.raises(ValueError, match="not allowed"):
        check_targets({"_target_": "torch.optim.SGD"}, base=OURS_TO_CALL)


def test_an_archive_that_is_not_the_official_one_is_not_opened(monkeypatch, tmp_path):
    """Only archives whose md5 is the published one are unpacked, and pickles in them only with theirs."""
    monkeypatch.setenv("FAIRAT_LIGHTNING_DATA", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    with tarfile.open(tmp_path / "cache" / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"), io.BytesIO())

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(ValueError, match="could not download CIFAR-10"):
        sets.cifar10(None)
    assert not (tmp_path / "outside").exists()


def test_a_set_whose_files_are_pickles_of_another_s_is_refused_unread(tmp_path, evil):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(evil))
    with pytest.raises(ValueError, match="not the official files"):
        sets.cifar10(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_no_name_leaves_its_folder(compose, monkeypatch, capsys, tmp_path, launch):
    from fairat_lightning.commands import evaluate as judge
    from fairat_lightning.config.compose import run_name

    cfg = compose(*SMALL)
    cfg.hydra.runtime.choices.data = "../../x/.."
    name = run_name(_root_=cfg)
    assert "/" not in name and not name.startswith(".")
    folder, _ = launch()
    for wrong in ("../out", "/tmp/out", ".", "a/b"):
        with pytest.raises(ValueError, match="name="):
            judge.main([f"checkpoint={folder}", f"name={wrong}", "samples_per_class=2"])


SECRETS = (
    *("+logger.api_key=abc123", "+logger.api_key=abc 123", "WANDB_API_KEY=abc123", "+logger.settings={api_key: abc123}"),
    *("+a.token=abc123", "a.password=abc123", "+client_secret=abc123", "access_key=abc123", "auth=abc123"),
    *("storage=postgresql://me:abc123@host/db", "storage=postgresql://me:abc@123@host/db", "storage=mysql://me:ab/123@host"),
)


@pytest.mark.parametrize("word", SECRETS)
def test_a_secret_is_not_in_the_record(word):
    said = redacted(word)
    assert "123" not in said and "***" in said and said.startswith(word[:4])
    assert redacted("method.radius=0.5") == "method.radius=0.5" and redacted("data=tokens") == "data=tokens"


def test_a_secret_in_the_configuration_is_refused(monkeypatch, capsys, tmp_path):
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, "+logger.settings.api_key=abc123")
    assert (
        code == 2 and "api_key must not be in the configuration" in err and "abc123" not in err and list(tmp_path.iterdir()) == []
    )


def test_nothing_of_the_environment_is_in_a_run_s_folder(launch, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setenv("MY_SECRET", "9f8e7d6c5b")
    monkeypatch.setattr(sys, "argv", ["fairat_lightning", "api_key=9f8e7d6c5b"])
    folder, _ = launch("logger=tensorboard")
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"9f8e7d6c5b" not in content and b"0123456789abcdef0123456789abcdef" not in content, path
    assert "***" in json.loads((folder / "run.json").read_text())["command"]


def test_weights_only_even_for_safetensors(tmp_path, evil):
    from fairat_lightning.models import preactresnet_tiny

    net = preactresnet_tiny(num_classes=4, in_channels=1, width=4, mean=[0.5], std=[0.25])
    (tmp_path / "x.safetensors").write_bytes(_pickled(evil))
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(net, tmp_path / "x.safetensors")
    assert not (tmp_path / "ran").exists()
