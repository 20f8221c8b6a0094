"""The command as a user meets it: some of it in real processes, from a directory that is not the checkout's."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
import yaml
from helpers import DISTIL, METHODS, ROOT, SMALL, call, start

from fairat_lightning.config.compose import run_name


def test_help_is_for_people(tmp_path):
    done = start(tmp_path, "--help")
    assert done.returncode == 0
    assert "method: absld, bat, cfa, cfol, codat, csr, custom, dafa, decosam, faal, fair_ard" in done.stdout
    for word in ("init_from=", "data.root=", "method.radius=", "hydra.run.dir="):
        assert word in done.stdout
    assert start(tmp_path, "--help", "seed=0").stdout == done.stdout  # which Hydra answers
    assert list(tmp_path.iterdir()) == []


def test_trains_from_any_directory_and_finds_its_run_again(monkeypatch, capsys, tmp_path):
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
    code, again, _ = call(monkeypatch, capsys, tmp_path, *SMALL, "method=faal")
    assert code == 0 and "finished" in again and "worst class" in again
    assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    code, anew, _ = call(monkeypatch, capsys, tmp_path, *SMALL, "method=faal", "overwrite=true")
    assert code == 0 and "finished" not in anew
    assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns > before
    assert (folder / "metrics.json").read_bytes() == metrics
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_the_name_is_a_function_of_configuration_and_seed(compose):
    name = lambda *words: run_name(_root_=compose(*words))  # noqa: E731
    assert name("method=faal") == name("method=faal") == name("method=faal", "overwrite=true")
    assert (
        len({name(), name("seed=1"), name("method=faal", "method.radius=0.25"), name("trainer.max_epochs=3"), name("awp=awp")})
        == 5
    )


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


def test_a_sweep_makes_one_folder_a_job(monkeypatch, capsys, tmp_path):
    words = [*(w for w in SMALL if "max_epochs" not in w), "trainer.max_epochs=1"]
    code, _, err = call(monkeypatch, capsys, tmp_path, "-m", *words, "method=pgd_at,faal,fairat", "seed=0,1")
    assert code == 0, err
    folders = [p for p in (tmp_path / "runs").iterdir() if p.is_dir()]
    assert len(folders) == 6 and all((p / "metrics.json").exists() for p in folders)
    _, single, _ = call(monkeypatch, capsys, tmp_path, *words, "method=faal", "seed=1")
    assert "finished" in single, "a sweep's job and the single command share their folder"


@pytest.mark.parametrize("words", [("trainer=ddp",), ("trainer=cpu", "trainer.devices=2")])
def test_a_sweep_over_processes_is_refused(monkeypatch, capsys, tmp_path, words):
    words = [*SMALL, "-m", *words, "trainer.accelerator=cpu", "trainer.devices=2", "seed=0,1"]
    code, _, err = call(monkeypatch, capsys, tmp_path, *words)
    *jobs, last = err.splitlines()
    assert code == 2 and last == "error: 2 of 2 runs are not finished"
    assert all(line.startswith(f"error: seed={k}: a sweep or search cannot use several") for k, line in enumerate(jobs))


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


@pytest.mark.slow
@pytest.mark.parametrize("method,delay", [*((method, 0.5) for method in METHODS), ("fairat", 0.0), ("floor", 1.0)])
def test_killed_at_any_moment_it_ends_in_the_same_bits(tmp_path, teacher, method, delay):
    words = [w for w in SMALL if "max_epochs" not in w] + ["trainer.max_epochs=40", f"method={method}"]
    words += {
        "fairat": ["method.augmentation=cutout"],
        "floor": ["method.augmentation=cutout", "method.memory=0.9", "averaging=fawa", "averaging.threshold=0.0"],
        **{name: [f"method.teacher={teacher}"] for name in DISTIL},
        "decosam": [f"init_from={teacher}"],
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


@pytest.mark.slow
def test_two_processes_train_and_count_every_sample_once(tmp_path):
    done = start(tmp_path, *SMALL, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=ddp")
    assert done.returncode == 0, done.stderr
    confusion = json.loads((tmp_path / "ddp" / "metrics.json").read_text())
    assert all(round(v * 10, 6).is_integer() for v in confusion["pgd20"]["per_class"].values())
    assert len((tmp_path / "ddp" / "history.csv").read_text().splitlines()) == 3
