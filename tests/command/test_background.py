"""The script for long tables beside other work, with a table of seconds."""

import os
import subprocess
import sys
import time

import pytest
from helpers import ROOT

WORDS = [
    *("table=faal", "budget=night", "rows=[pgd_at]", "data=synthetic", "data.train_size=64", "data.test_size=40"),
    *("data.val_per_class=4", "data.batch_size=32", "trainer=cpu", "model=preactresnet_tiny", "model.width=4"),
]


@pytest.mark.slow
def test_a_table_runs_from_a_frozen_clone_is_paused_stopped_gone_on_with_and_taken(tmp_path, request):
    checkout, night = tmp_path / "checkout", tmp_path / "night"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)

    def script(*words, fails=0):
        command = ["bash", str(checkout / "studies" / "background.sh"), str(night), *words]
        done = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
        assert done.returncode == fails, done.stderr
        return done.stderr if fails else done.stdout

    def wait(for_what, what):
        end = time.monotonic() + 240
        while not for_what():
            assert time.monotonic() < end, (what, log.read_text() if log.exists() else "")
            time.sleep(0.2)

    request.addfinalizer(lambda: script("stop"))  # a test that fails leaves nothing running
    log, folder = night / "jobs" / "one.log", night / "runs" / "faal-night-width4" / "pgd_at-s0"
    assert "one runs" in script("start", "one", *WORDS, "trainer.max_epochs=100000")
    wait(lambda: (folder / "history.csv").exists(), "the first epoch")
    assert "one runs already" in script("start")
    words = (night / "jobs" / "one.words").read_text()
    assert (
        "stop it first" in script("start", "one", "table=fairat", fails=2) and (night / "jobs" / "one.words").read_text() == words
    )
    assert "nothing was begun as two" in script("start", "two", fails=2)
    assert "no table is finished yet" in script("take", fails=1) and not (checkout / "results" / "*").exists()
    (checkout / "fairat_lightning" / "__init__.py").write_text("raise SystemExit('edited')\n")
    assert "one: paused" in script("pause")
    rows = len((folder / "history.csv").read_text().splitlines())
    time.sleep(1)
    assert len((folder / "history.csv").read_text().splitlines()) <= rows + 1  # the line at work
    assert "one: goes on" in script("continue")
    wait(lambda: len((folder / "history.csv").read_text().splitlines()) > rows + 1, "more epochs")
    script("pause")
    assert "one: told to stop" in script("stop")  # a paused one saves too
    wait(lambda: "does not run" in script("status"), "its end")
    assert "the run is saved" in log.read_text()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=night / "code", capture_output=True, text=True).stdout.strip()
    assert commit in (folder / "run.json").read_text()
    stranger = subprocess.Popen(["sleep", "600"])
    (night / "jobs" / "one.pid").write_text(str(stranger.pid))  # as after a reboot
    assert "does not run" in script("status") and script("stop") == ""
    assert stranger.poll() is None
    stranger.kill()
    script("start", "two", *WORDS, "trainer.max_epochs=1", "to=runs/faal-night-width4/report", "runs=short")
    wait(
        lambda: (night / "runs/faal-night-width4/report/table.json").exists() and "two does not run" in script("status"),
        "the table",
    )
    assert str(checkout / "results" / "faal-night-width4") in script("take")
    assert (checkout / "results" / "faal-night-width4" / "table.json").exists()
