"""`python -m fairat_lightning.evaluate devices=2`: processes that share one evaluation, and what is left when one ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, call, quick_for

from fairat_lightning.record.journal import Share, read

DIGITS = ("checkpoint=pretrained:digits_faal", "samples_per_class=2", "batch_size=4")
SUITES = {
    "quick": ("suite=quick",),
    "apgd": ("suite=apgd", "suite.steps=4", "suite.targets=2"),
    "autoattack": ("suite=autoattack", "suite.steps=4", "suite.queries=20"),
    "standard": ("suite=standard", "suite.check_images=10"),
}
# Wrong under attack, in every process but the command's own.
OWN = """
import multiprocessing, torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    def forward(self, x):
        if multiprocessing.parent_process() is not None and x.requires_grad:
            {what}
        return self.net(x)
"""


@pytest.fixture
def evaluate(monkeypatch, capfd, tmp_path):
    """The command in this process, the others started from it: exit code, stdout, stderr."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda *words: call(monkeypatch, capfd, tmp_path, *words, command="evaluate")


@pytest.fixture
def second(monkeypatch):
    """Let the command wait, before its first batch, until the other process has finished one, and then call what is given."""

    def second(then=lambda: None, batches: int = 1) -> list[str]:
        claim, mine = Share.claim, []

        def late(share: Share, stage: str, number: int) -> bool:
            other = share.path.with_name("samples-1.jsonl")
            until = time.monotonic() + 240
            while not mine and not (other.exists() and other.read_bytes().count(b"\n") > batches):
                assert time.monotonic() < until, "the other process has judged nothing"
                time.sleep(0.01)
            if not mine:
                then()
            mine.append(f"{stage}-{number}")
            return claim(share, stage, number)

        monkeypatch.setattr(Share, "claim", late)
        return mine

    return second


def lines(place: Path) -> list[str]:
    """The journal without its header, which holds the evaluation's name."""
    return (place / "samples.jsonl").read_text().splitlines()[1:]


def alive(session: int) -> set[int]:
    """What still runs of a command that was started in a session of its own."""
    shown = subprocess.run(["ps", "-e", "-o", "pid=,sess=,stat="], capture_output=True, text=True, check=True).stdout
    return {int(pid) for pid, of, state in map(str.split, shown.splitlines()) if int(of) == session and state[0] != "Z"}


def folder(tmp_path: Path, name: str) -> Path:
    return tmp_path / "runs" / "audit-digits_faal_s0" / "evaluation" / name


@pytest.mark.parametrize("suite", quick_for(list(SUITES), "quick", "apgd"))
def test_two_processes_leave_what_one_leaves_to_the_byte(evaluate, second, tmp_path, suite):
    if suite != "quick":
        pytest.importorskip("pyautoattack")
    assert evaluate(*DIGITS, *SUITES[suite], "name=one")[0] == 0
    mine = second()
    code, _, err = evaluate(*DIGITS, *SUITES[suite], "name=two", "devices=2")
    one, two = folder(tmp_path, "one"), folder(tmp_path, "two")
    assert (code, err) == (0, "") and mine
    assert lines(one) == lines(two) and (one / "metrics.json").read_bytes() == (two / "metrics.json").read_bytes()
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert "devices" not in (two / "config.yaml").read_text() + (two / "samples.jsonl").read_text()
    code, out, _ = evaluate(*DIGITS, *SUITES[suite], "name=two")
    assert code == 0 and "This evaluation is finished" in out


def test_a_killed_process_ends_the_command_and_another_number_continues(evaluate, second, tmp_path):
    words = (*DIGITS, *SUITES["quick"])
    assert evaluate(*words, "name=whole")[0] == 0

    def kill() -> None:
        (process,) = multiprocessing.active_children()
        process.kill()
        process.join()

    mine = second(kill)
    code, _, err = evaluate(*words, "name=killed", "devices=2")
    assert code == 1 and err.startswith("error: process 2 of 2 has ended by signal 9") and err.count("\n") == 1, err
    assert "the same command continues" in err and not multiprocessing.active_children()
    place = folder(tmp_path, "killed")
    kept = [len(read(place / f"samples{of}.jsonl")[1]) for of in ("", "-0", "-1")]
    assert mine and kept[0] == 0 and kept[1] <= 1 <= kept[2], "what both had judged"
    code, out, _ = evaluate(*words, "name=killed")
    assert code == 0 and f"resumed: {sum(kept)} finished batches are kept" in out
    assert lines(place) == lines(folder(tmp_path, "whole"))
    assert (place / "metrics.json").read_bytes() == (folder(tmp_path, "whole") / "metrics.json").read_bytes()
    assert not list(place.glob("samples-*")) and not (place / ".claims").exists()


WRONG = {  # what another process does, and the exit code of the command with a part of its last line
    'raise RuntimeError("the fan has stopped")': (1, "process 2 of 2 has ended with exit code 1, see its own message above"),
    "x = x * torch.nan": (2, "nan or infinite"),
    'raise OSError(27, "File too large")': (2, "cannot be written to: File too large"),
    'raise torch.OutOfMemoryError("no more")': (2, "out of memory in process 2 of 2"),
    "raise SystemExit(2)": (1, "process 2 of 2 has ended with exit code 2"),
}


@pytest.mark.parametrize("wrong", quick_for(list(WRONG), *list(WRONG)[:2]))
def test_what_goes_wrong_in_another_process_is_said(evaluate, tmp_path, monkeypatch, wrong):
    (tmp_path / "fanpackage.py").write_text(OWN.format(what=wrong))
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save({"net.1.weight": torch.rand(10, 64), "net.1.bias": torch.rand(10)}, tmp_path / "net.pt")
    words = ["checkpoint=net.pt", "model._target_=fanpackage.Net", "allow=[fanpackage.]", "data=digits", "normalisation=none"]
    claim = Share.claim
    monkeypatch.setattr(Share, "claim", lambda *given: False)  # the command leaves every batch to the other process
    code, _, err = evaluate(*words, "samples_per_class=2", "devices=2")
    monkeypatch.setattr(Share, "claim", claim)
    sys.modules.pop("fanpackage")
    expected, said = WRONG[wrong]
    assert code == expected and err.splitlines()[-1].startswith("error: ") and said in err.splitlines()[-1], err
    assert ("RuntimeError: the fan has stopped" in err) == ("fan" in wrong) and (err.count("\n") == 1 or "fan" in wrong), err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlasts_the_command(tmp_path, number):
    """Ctrl-C, which the whole group hears, is answered by the command alone; a killed command takes the others with it."""
    words = [*DIGITS, "suite=sweep", f"suite.multiples={list(range(1, 100))}", "samples_per_class=30", "devices=2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "fairat_lightning.evaluate", *words],
        **{"cwd": tmp_path, "env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    place = folder(tmp_path, "sweep")
    while not (place / "samples-1.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    if number == signal.SIGINT:
        for pid in alive(process.pid) - {process.pid}:
            os.kill(pid, number)
        time.sleep(1)
        assert process.poll() is None, "the others do not hear it"
        os.killpg(process.pid, number)
    else:
        process.kill()
    err = process.communicate(timeout=120)[1]  # until the last of them has closed it
    assert process.returncode == (75 if number == signal.SIGINT else -9)
    assert err.count("\n") == (number == signal.SIGINT), err
    until = time.monotonic() + 60
    while alive(process.pid):
        assert time.monotonic() < until
        time.sleep(0.05)
