"""The command as a user meets it: some of it in real processes, from a directory that is not the checkout's."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL

from fairat_lightning import __main__ as command

ROOT = Path(__file__).resolve().parent.parent


def start(cwd: Path, *words: str, module: str = "fairat_lightning") -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    return subprocess.run([sys.executable, "-m", module, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def call(monkeypatch, capsys, cwd: Path, *words: str) -> tuple[int, str, str]:
    """The command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["fairat_lightning", *words])
    code = 0
    try:
        command.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_is_for_people(tmp_path):
    done = start(tmp_path, "--help")
    assert done.returncode == 0
    assert "method: bat, cfa, cfol, codat, csr, dafa, faal, fair_ard" in done.stdout
    for word in ("init_from=", "data.root=", "method.radius=", "hydra.run.dir="):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_trains_from_any_directory_and_finds_its_run_again(tmp_path):
    done = start(tmp_path, *SMALL, "method=faal")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "worst class" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("synthetic-preactresnet_tiny-faal-at-s0-")
    metrics = (folder / "metrics.json").read_bytes()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["method"]["radius"] == 0.5 and config["attack"]["eps"] == 0.1 and "overwrite" not in config
    run = json.loads((folder / "run.json").read_text())
    assert run["command"].endswith("method=faal") and run["versions"]["torch"] and run["seconds"]["train"] > 0
    before = (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    again = start(tmp_path, *SMALL, "method=faal")
    assert again.returncode == 0 and "finished" in again.stdout and "worst class" in again.stdout
    assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    anew = start(tmp_path, *SMALL, "method=faal", "overwrite=true")
    assert anew.returncode == 0 and "finished" not in anew.stdout
    assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns > before
    assert (folder / "metrics.json").read_bytes() == metrics
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_the_name_is_a_function_of_configuration_and_seed(compose):
    name = lambda *words: command.run_name(_root_=compose(*words))  # noqa: E731
    assert name("method=faal") == name("method=faal") == name("method=faal", "overwrite=true")
    assert (
        len({name(), name("seed=1"), name("method=faal", "method.radius=0.25"), name("trainer.max_epochs=3"), name("awp=awp")})
        == 5
    )


# words -> what the one line must say; `{tmp}` stands for a fresh directory
WRONG = {
    "method=foal": "foal",
    "metod=faal": "metod",
    "attack.epsilon=0.1": "epsilon",
    "attack.eps=8": "attack.eps=8",
    "attack.eps=-0.1": "attack.eps=-0.1",
    "attack.eps=big": "attack.eps=big",
    "attack.steps=2.5": "attack.steps=2.5",
    "select=best": "select=best",
    "seed=-1": "seed=-1",
    "seed=one": "seed=one",
    "trainer.max_epochs=0": "trainer.max_epochs=0",
    "trainer.max_epochs=ten": "trainer.max_epochs=ten",
    "trainer=tpu": "tpu",
    "optim.lr=-1": "optim.lr=-1",
    "optim.lr=fast": "optim.lr=fast",
    "optim.milestones=[2]": "optim.milestones=[2]",
    "method=faal method.radius=-1": "method.radius=-1",
    "method=fairat method.subset=some": "method.subset=some",
    "method=fairat method.augmentation=blur": "blur",
    "method=standard awp=awp": "objective=at awp=none only",
    "method=standard objective=trades": "objective=at awp=none only",
    "objective=trades objective.beta=-1": "objective.beta=-1",
    "objective.label_smoothing=1": "objective.label_smoothing=1",
    "awp=awp awp.gamma=-1": "awp.gamma=-1",
    "averaging=ema averaging.decay=1": "averaging.decay=1",
    "model.width=0": "model.width=0",
    "data.batch_size=0": "data.batch_size=0",
    "data.train_size=3": "data.train_size=3",
    "data.train_size=100000": "data.train_size=100000",
    "data=cifar10 data.root={tmp}/nowhere": "nowhere",
    "data=folder": "data.root",
    "init_from={tmp}/missing.pt": "missing.pt",
    "experiment=digits_faal": "init_from",
    "overwrite=no": "overwrite=no",
    "method=faal method.count_weighted=no": "count_weighted=no",
    "model.channels_last=no": "channels_last=no",
    "optim.nesterov=off": "nesterov=off",
    "optim=onecycle optim.warmup=2": "optim.warmup=2",
    "attack=fgsm objective=trades": "attack.start=zero",
    "trainer.precision=bf16-true": "trainer.precision=bf16-true",
    "+trainer.fast_dev_run=true": "trainer.fast_dev_run=True",
    "+trainer.check_val_every_n_epoch=2": "check_val_every_n_epoch=2",
    "+awp.gamma=0.1": "awp.gamma",
    "+method.gama=0.1": "gama",
    "model=null": "group",
    "init_from=5": "init_from=5",
    "data.root=nowhere": "data.root=nowhere",
    "data=synthetic model=timm model.image_size=16": "model.image_size=16",
    "--foo": "--foo",
    "hydra.run.dir=/dev/null/run": "hydra.run.dir=/dev/null/run",
    "model._target_=os.system": "os.system",
    "method._target_=builtins.eval": "builtins.eval",
    "data.load._target_=shutil.rmtree": "shutil.rmtree",
    "'": "'",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input_is_one_line_exit_code_2_and_no_folder(monkeypatch, capsys, tmp_path, words):
    split = [word.replace("{tmp}", str(tmp_path)) for word in words.split(" ")]
    code, out, err = call(monkeypatch, capsys, tmp_path, *([] if "data=" in words else SMALL), *split)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert WRONG[words] in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_cuda_trainer_without_cuda(monkeypatch, capsys, tmp_path):
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, "trainer=gpu")
    assert code == 2 and "trainer=cpu" in err and err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_folder_with_another_run_is_left_alone(monkeypatch, capsys, tmp_path):
    where = f"hydra.run.dir={tmp_path}/mine"
    assert call(monkeypatch, capsys, tmp_path, *SMALL, where)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "mine").rglob("*")}
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, where, "seed=1")
    assert code == 2 and "overwrite=true" in err and err.count("\n") == 1
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "mine").rglob("*")} == before
    (tmp_path / "mine" / "notes.txt").write_text("the user's own")
    assert call(monkeypatch, capsys, tmp_path, *SMALL, where, "seed=1", "overwrite=true")[0] == 0
    assert yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text())["seed"] == 1
    assert (tmp_path / "mine" / "notes.txt").read_text() == "the user's own"


def test_init_from_takes_the_weights_and_nothing_else(monkeypatch, capsys, tmp_path):
    words = [*SMALL, "method=pgd_at"]
    assert call(monkeypatch, capsys, tmp_path, *words, "hydra.run.dir=base")[0] == 0
    checkpoint = torch.load(tmp_path / "base/checkpoints/best.ckpt", weights_only=True)
    plain = {f"module.{k.removeprefix('net.')}": v for k, v in checkpoint["state_dict"].items() if k.startswith("net.")}
    torch.save(plain, tmp_path / "plain.pth")
    tuned = []
    for source in ("base", "base/checkpoints/best.ckpt", "plain.pth"):
        run = f"from-{len(tuned)}"
        assert call(monkeypatch, capsys, tmp_path, *words, f"init_from={source}", f"hydra.run.dir={run}", "optim.lr=0.0")[0] == 0
        saved = torch.load(tmp_path / run / "checkpoints/last.ckpt", weights_only=True)
        assert saved["epoch"] == 1 and saved["global_step"] == checkpoint["global_step"] * 2 // (checkpoint["epoch"] + 1)
        tuned.append(saved["state_dict"])
        for name, value in tuned[-1].items():
            if name.startswith("net.") and "running" not in name and "tracked" not in name:
                assert torch.equal(value, checkpoint["state_dict"][name]), name
    assert all(torch.equal(tuned[0][k], other[k]) for other in tuned for k in other)
    for wrong, word in (("model.width=8", "width"), ("model=resnet18", ""), ("data.load.num_classes=6", "")):
        code, _, err = call(monkeypatch, capsys, tmp_path, *words, "init_from=base", wrong, "hydra.run.dir=wrong")
        assert code == 2 and err.count("\n") == 1 and "base" in err and word in err
        assert not (tmp_path / "wrong").exists()
    (tmp_path / "corrupt.ckpt").write_bytes(b"not a checkpoint")
    code, _, err = call(monkeypatch, capsys, tmp_path, *words, "init_from=corrupt.ckpt", "hydra.run.dir=wrong")
    assert code == 2 and "corrupt.ckpt" in err and err.count("\n") == 1 and not (tmp_path / "wrong").exists()


def test_a_sweep_makes_one_folder_a_job(tmp_path):
    words = [w for w in SMALL if "max_epochs" not in w]
    done = start(tmp_path, "-m", *words, "trainer.max_epochs=1", "method=pgd_at,faal,fairat", "seed=0,1")
    assert done.returncode == 0, done.stderr
    folders = [p for p in (tmp_path / "runs").iterdir() if p.is_dir()]
    assert len(folders) == 6 and all((p / "metrics.json").exists() for p in folders)
    single = start(tmp_path, *words, "trainer.max_epochs=1", "method=faal", "seed=1")
    assert "finished" in single.stdout, "a sweep's job and the single command share their folder"


@pytest.mark.parametrize("words", [("trainer=ddp",), ("trainer=cpu", "trainer.devices=2")])
def test_a_sweep_over_processes_is_refused(tmp_path, words):
    done = start(tmp_path, *SMALL, "-m", *words, "trainer.accelerator=cpu", "trainer.devices=2", "seed=0,1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "sweep" in done.stderr


def test_a_wrong_job_of_a_sweep_is_one_line_too(tmp_path):
    done = start(tmp_path, "-m", *SMALL, "method=pgd_at", "optim.lr=-1,0.1")
    assert done.returncode == 2 and "optim.lr=-1" in done.stderr and "Traceback" not in done.stderr


def test_an_unreadable_checkpoint_is_named_and_an_unfinished_run_goes_on(monkeypatch, capsys, tmp_path):
    words = [*SMALL, "hydra.run.dir=run"]
    assert call(monkeypatch, capsys, tmp_path, *words)[0] == 0
    metrics = (tmp_path / "run/metrics.json").read_bytes()
    record = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/metrics.json").unlink()
    code, out, _ = call(monkeypatch, capsys, tmp_path, *words)
    assert code == 0 and "resumed" in out and (tmp_path / "run/metrics.json").read_bytes() == metrics
    again = json.loads((tmp_path / "run/run.json").read_text())
    assert again["started"] == record["started"] and len(again["resumed"]) == 1
    assert again["seconds"]["train"] == record["seconds"]["train"]
    (tmp_path / "run/metrics.json").unlink()
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "run/checkpoints" / name).write_bytes(b"half a checkp")
    code, _, err = call(monkeypatch, capsys, tmp_path, *words)
    assert code == 2 and "last.ckpt" in err and "overwrite=true" in err and err.count("\n") == 1
    assert call(monkeypatch, capsys, tmp_path, *words, "overwrite=true")[0] == 0


METHODS = sorted(path.stem for path in (command.CONF / "method").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("method,delay", [*((method, 0.5) for method in METHODS), ("fairat", 0.0), ("floor", 1.0)])
def test_killed_at_any_moment_it_ends_in_the_same_bits(tmp_path, teacher, method, delay):
    words = [w for w in SMALL if "max_epochs" not in w] + ["trainer.max_epochs=40", f"method={method}"]
    words += {
        "fairat": ["method.augmentation=cutout"],
        "floor": ["method.augmentation=cutout", "averaging.threshold=0.0"],
        "fair_ard": [f"method.teacher={teacher}"],
    }.get(method, [])
    assert start(tmp_path, *words, "hydra.run.dir=whole").returncode == 0
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command_line = [sys.executable, "-m", "fairat_lightning", *words, "hydra.run.dir=parts"]
    killed = subprocess.Popen(command_line, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    history = tmp_path / "parts" / "history.csv"
    while not history.exists():
        assert killed.poll() is None
        time.sleep(0.02)
    time.sleep(delay)
    killed.kill()
    assert killed.wait() == -9
    assert not (tmp_path / "parts" / "metrics.json").exists()
    done = start(tmp_path, *words, "hydra.run.dir=parts")
    assert done.returncode == 0, done.stderr
    a, b = (torch.load(tmp_path / run / "checkpoints/last.ckpt", weights_only=True) for run in ("whole", "parts"))
    assert all(torch.allclose(v, b["state_dict"][name], rtol=0, atol=0, equal_nan=True) for name, v in a["state_dict"].items())
    assert (tmp_path / "whole/metrics.json").read_text() == (tmp_path / "parts/metrics.json").read_text()


POOL = {
    "method": (*METHODS, "what"),
    "objective": ("at", "trades", "mart"),
    "awp": ("awp", "none"),
    "averaging": ("ema", "swa", "fawa", "none"),
    "head": ("balanced", "none"),
    "optim": ("onecycle", "multistep"),
    "attack": ("fgsm", "l2_pgd10", "pgd7"),
    "attack.eps": ("8/255", "0", "-1", "nan", "2", "x"),
    "optim.lr": ("0.1", "0", "nan", "-1", "[1]"),
    "data.train_size": ("64", "4", "null", "0", "x"),
    "data.batch_size": ("1000", "3", "0", "null"),
    "model.width": ("1", "2", "-1", "1.5"),
    "select": ("worst", "sum", "none", "null"),
    "seed": ("1", "4294967296", "null"),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_fuzz_it_runs_or_it_is_one_line(monkeypatch, capsys, tmp_path, seed):
    chance = random.Random(seed)
    words = [f"{key}={chance.choice(values)}" for key, values in POOL.items() if chance.random() < 0.3]
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, "trainer.max_epochs=1", *words, "hydra.run.dir=run")
    if code == 0:
        assert (tmp_path / "run" / "metrics.json").exists(), words
    else:
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, (words, err)
        assert not (tmp_path / "run").exists(), words


@pytest.mark.slow
def test_two_processes_train_and_count_every_sample_once(tmp_path):
    done = start(tmp_path, *SMALL, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=ddp")
    assert done.returncode == 0, done.stderr
    confusion = json.loads((tmp_path / "ddp" / "metrics.json").read_text())
    assert all(round(v * 10, 6).is_integer() for v in confusion["pgd20"]["per_class"].values())
    assert len((tmp_path / "ddp" / "history.csv").read_text().splitlines()) == 3
