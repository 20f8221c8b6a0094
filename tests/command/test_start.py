"""How a command starts: what its first answer needs is light, and the environment is set before anything heavy."""

import json
import os
import signal
import subprocess
import sys

import pytest
from helpers import ROOT, SMALL

from fairat_lightning.commands.errors import ending

HEAVY = ("torch", "torchvision", "lightning", "torchmetrics", "matplotlib", "wandb", "optuna")
# Runs a module as `python -m` does, and prints the first import of each heavy package with the setting of OpenMP at that moment;
# torch ends it.
PROGRAM = """
import os, runpy, signal, sys
HEAVY = set(sys.argv.pop(1).split(","))
class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in HEAVY:
            print("IMPORTS", name, os.environ.get("OMP_WAIT_POLICY"), file=sys.stderr, flush=True)
            if name == "torch" and os.environ.get("THEN") == "Ctrl-C":
                signal.raise_signal(signal.SIGINT)
            if name == "torch":
                os._exit(0)  # it takes seconds, and all is known
sys.meta_path.insert(0, Watch)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
COMMANDS = ("", ".evaluate", ".export", ".search", ".balance", ".reproduce", ".report")
PRETRAINED = "checkpoint=pretrained:digits_faal"
LIGHT = {  # a mistyped word, and usage errors -> what is said of them
    "": [("metod=faal", "metod"), ("seed=-1", "seed=-1"), ("experiment=digits_faal", "set init_from=PATH")],
    ".evaluate": [
        (f"{PRETRAINED} sute=quick", "sute"),
        ("suite=quick", "set checkpoint=PATH"),
        ("checkpoint=nowhere", "nowhere does not exist"),
        (f"{PRETRAINED} seed=-1", "seed=-1"),
    ],
    ".export": [
        ("chekpoint=x", "chekpoint"),
        ("to=x", "set checkpoint=PATH"),
        ("checkpoint=nowhere to=x", "nowhere does not exist"),
        (PRETRAINED, "set to=FOLDER"),
    ],
    ".search": [("optim.lr=interval(0.1,0.2) metod=faal", "metod")],
    ".balance": [
        ("select=best", "set checkpoint=PATH"),
        (f"{PRETRAINED} select=best", "select=best"),
        ("checkpoint=. to=x", "has no config.yaml"),
        (PRETRAINED, "set to=FILE"),
    ],
    ".reproduce": [("table=foal", "table=foal")],
    ".report": [("x --srt", "--srt"), ("nowhere", "there is no such folder")],
}
FAR = {  # words that are fine or refused late: torch is needed
    "": ["optim.lr=-1"],
    "-m": ["optim.lr=-1,-2"],
    ".evaluate": [PRETRAINED],
    ".export": [PRETRAINED, "to=x"],
    ".balance": [PRETRAINED, "to=x"],
    ".search": ["optim.lr=interval(0.1,0.2)", "data=synthetic", "trials=1", "storage=nothing://"],
    ".reproduce": ["table=faal", "rows=[pgd_at]", "data=synthetic", "val_every=0"],
    ".report": ["pretrained:digits_faal"],
}


def hearing() -> None:
    """As on a terminal, also where the tests themselves run in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def started(cwd, module: str, *words: str, **more: str) -> tuple[int, str, dict[str, str]]:
    """The exit code, what was printed, and for each heavy package that was imported the setting at that moment."""
    env = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | {"PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-c", PROGRAM, ",".join(HEAVY), module, *words]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, preexec_fn=hearing)
    notes = [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("IMPORTS")]
    said = "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("IMPORTS"))
    return done.returncode, done.stdout + said, dict(reversed(notes))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_the_refusal_of_a_mistyped_word_need_nothing_heavy(tmp_path, command):
    code, said, heavy = started(tmp_path, f"fairat_lightning{command}", "--help")
    assert code == 0 and len(said.splitlines()) > 5 and not heavy
    for words, what in LIGHT[command]:
        code, said, heavy = started(tmp_path, f"fairat_lightning{command}", *words.split())
        assert code == 2 and said.startswith("error: ") and said.count("\n") == 1 and what in said and not heavy, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", FAR)
def test_openmp_is_told_to_wait_before_torch_is_loaded(tmp_path, command):
    module, first = ("fairat_lightning", ["-m"]) if command == "-m" else (f"fairat_lightning{command}", [])
    code, said, heavy = started(tmp_path, module, *first, *FAR[command])
    assert code == 0 and heavy["torch"] == "PASSIVE", said


@pytest.mark.parametrize("command", FAR)
def test_ctrl_c_while_a_command_starts_is_one_line(tmp_path, command):
    module, first = ("fairat_lightning", ["-m"]) if command == "-m" else (f"fairat_lightning{command}", [])
    code, said, _ = started(tmp_path, module, *first, *FAR[command], THEN="Ctrl-C")
    assert code == 75 and said == "error: stopped by a signal: the same command continues\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_on_windows_one_line_says_where_the_commands_run(tmp_path, command):
    program = "import runpy, sys; sys.platform = 'win32'; runpy.run_module(sys.argv[1], run_name='__main__')"
    words = [sys.executable, "-c", program, f"fairat_lightning{command}"]
    done = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "WSL" in done.stderr and not done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [*([f"fairat_lightning{c}", "--help"] for c in COMMANDS), ["fairat_lightning", "--cfg", "job"]])
def test_a_reader_that_has_gone_is_no_error(tmp_path, words, unbuffered):
    """`| head`: at the first word, and at what Python writes when it ends."""
    read, written = os.pipe()
    os.close(read)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, stdout=written, stderr=subprocess.PIPE, text=True)
    os.close(written)
    assert not done.stderr and done.returncode in ((0, 75) if unbuffered else (0,))  # 75 where it had more to say


@pytest.mark.slow
def test_a_training_whose_reader_has_gone_is_stopped_and_goes_on(tmp_path):
    read, written = os.pipe()
    os.close(read)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fairat_lightning", *SMALL, "hydra.run.dir=run"]
    done = subprocess.run(command, cwd=tmp_path, env=env, stdout=written, stderr=subprocess.PIPE, text=True)
    os.close(written)
    assert done.returncode == 75 and not done.stderr and not (tmp_path / "run" / "metrics.json").exists()
    assert subprocess.run(command, cwd=tmp_path, env=env, capture_output=True).returncode == 0


def test_another_pipe_that_breaks_keeps_its_traceback(capfd):
    with pytest.raises(BrokenPipeError), ending():
        raise BrokenPipeError


def test_a_process_that_a_launcher_starts_waits_so_too(tmp_path):
    """It imports what it is given by its name, and nothing before."""
    program = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1])); import os; print(os.environ['OMP_WAIT_POLICY'])"
    import pickle

    from fairat_lightning.commands.sweep import job

    env = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, pickle.dumps(job).hex()]
    assert subprocess.run(command, env=env, capture_output=True, text=True).stdout.strip() == "PASSIVE"


def test_fairat_opens_the_commands(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    program = "import sys; from fairat_lightning.commands.cli import fairat; sys.argv[0] = 'fairat'; fairat()"

    def fairat(*words):
        return subprocess.run([sys.executable, "-c", program, *words], cwd=tmp_path, env=env, capture_output=True, text=True)

    shown = fairat("--help")
    assert shown.returncode == 0 and all(f"fairat {name}" in shown.stdout for name in ("train", "evaluate", "reproduce"))
    for words, said in {
        "": "fairat COMMAND",
        "trian": "trian",
        "train metod=faal": "metod",
        "report nowhere": "nowhere holds",
    }.items():
        done = fairat(*words.split())
        assert done.returncode == 2 and said in done.stdout + done.stderr


@pytest.mark.slow
def test_fairat_trains_in_two_processes(tmp_path):
    program = "import sys; from fairat_lightning.commands.cli import fairat; sys.argv[0] = 'fairat'; fairat()"
    words = [*SMALL, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=run"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program, "train", *words], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["command"].startswith("python -m fairat_lightning data=")
