"""Several processes as a user starts them: strategies, signals, a process that dies, two nodes, and how the run goes on."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SMALL, call, same
from torch import distributed as dist

from fairat_lightning.record import writer as record
from fairat_lightning.running import processes
from fairat_lightning.running.signals import SAVING
from fairat_lightning.training import trainer as trainers

STEPS = ("data.train_size=640", "data.batch_size=12", "trainer.accelerator=cpu", "trainer=ddp")  # 53 steps an epoch
TRAINED = ("trainer.max_epochs=8", "method=fairat", "method.augmentation=cutout", "averaging=ema")
STOPS = [("SIGTERM", 1), ("SIGTERM", 0), ("SIGTERM", None), ("SIGUSR1", 0), ("SIGUSR1", 1), ("SIGUSR1", None), ("SIGINT", None)]


class Command:
    """A run of the command with all its processes in a session of their own."""

    def __init__(self, folder: Path, *words: str, **env: str):
        self.folder = folder
        line = [sys.executable, "-m", "fairat_lightning", *SMALL, *STEPS, *words, f"hydra.run.dir={folder}"]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        hearing = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # also where tests run in the background
        self.process = subprocess.Popen(line, cwd=folder.parent, env=env, text=True, start_new_session=True, **pipes, **hearing)

    def alive(self, all_of_it: bool = True) -> list[int]:
        """What runs of it, in the order of its start; or only the processes that train, and no command that they call."""
        shown = subprocess.run(["ps", "-e", "-o", "pid=,sess=,stat=,args="], capture_output=True, text=True, check=True).stdout
        found = [line.split(maxsplit=3) for line in shown.splitlines() if int(line.split()[1]) == self.process.pid]
        trains = [int(pid) for pid, _, state, words in found if state[0] != "Z" and (all_of_it or "-m fairat_lightning" in words)]
        return sorted(trains)

    def after_an_epoch(self) -> "Command":
        """Wait until one more epoch has ended and is saved, and then a little."""
        begun = epochs(self.folder)
        while (now := epochs(self.folder)) <= begun or older(self.folder / "checkpoints/last.ckpt", self.folder / "history.csv"):
            begun = min(begun, now)  # without a checkpoint it begins anew
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        time.sleep(0.1)
        return self

    def send(self, name: str, rank: int | None) -> None:
        number = getattr(signal, name)
        if rank is None:
            os.killpg(self.process.pid, number)
        else:
            os.kill(self.alive(all_of_it=False)[rank], number)

    def end(self) -> tuple[int, str, str]:
        """Its exit code, stdout and stderr, once nothing of it is left."""
        try:
            out, err = self.process.communicate(timeout=120)
            until = time.monotonic() + 15
            while self.alive():
                assert time.monotonic() < until, f"still there: {self.alive()}"
                time.sleep(0.1)
        finally:
            for pid in self.alive():
                os.kill(pid, signal.SIGKILL)
        return self.process.returncode, out, err


def epochs(folder: Path) -> int:
    history = folder / "history.csv"
    return len(history.read_text().splitlines()) - 1 if history.exists() else 0


def older(one: Path, other: Path) -> bool:
    return not one.exists() or one.stat().st_mtime_ns < other.stat().st_mtime_ns


def finish(folder: Path, *words: str, **env: str) -> Path:
    code, out, err = Command(folder, *words, **env).end()
    assert code == 0 and "worst class" in out and not err, err
    return folder


def equal(whole: Path, parts: Path) -> None:
    same(whole, parts)
    assert (whole / "metrics.json").read_text() == (parts / "metrics.json").read_text()


REFUSED = (
    *("fsdp", "fsdp_cpu_offload", "fsdp_native", "deepspeed", "deepspeed_stage_2", "model_parallel", "dp", "single_xla", "what"),
    *("ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_spawn_find_unused_parameters_true", "null"),
    *("{_target_:lightning.pytorch.strategies.FSDPStrategy}", "{_target_:lightning.pytorch.strategies.ModelParallelStrategy}"),
    "{_target_:lightning.pytorch.strategies.DDPStrategy,start_method:fork}",
)


@pytest.mark.parametrize("strategy", REFUSED)
def test_a_strategy_that_splits_the_weights_or_forks_is_refused(monkeypatch, capsys, tmp_path, strategy):
    words = (*SMALL, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"trainer.strategy={strategy}")
    code, out, err = call(monkeypatch, capsys, tmp_path, *words)
    assert code == 2 and err.startswith("error: trainer.strategy=") and err.count("\n") == 1 and "choose auto or ddp" in err
    assert not out and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", [*processes.STRATEGIES, "{_target_:lightning.pytorch.strategies.DDPStrategy}"])
def test_one_device_and_ddp_are_not(compose, tmp_path, strategy):
    trainer = trainers.build_trainer(compose(*SMALL, "trainer.devices=2", f"trainer.strategy={strategy}"), tmp_path)
    assert trainer.world_size == 2 and isinstance(trainer.strategy.launcher, processes.Launcher)
    assert trainers.build_trainer(compose(*SMALL), tmp_path).strategy.launcher is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), False),
        (("trainer.devices=2",), True),
        (("trainer.devices=auto",), True),
        (("trainer.num_nodes=2",), True),
        (("trainer.num_nodes=2", "trainer.accelerator=cpu"), False),
    ],
)
def test_batch_norm_is_synchronised_over_devices_and_nodes_of_gpus(monkeypatch, compose, tmp_path, words, expected):
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(trainers, "build_part", lambda cfg, group, instead, **values: asked.update(values))
    monkeypatch.setattr(trainers, "join", lambda trainer: None)
    trainers.build_trainer(compose("trainer=gpu", "trainer.precision=32-true", *words), tmp_path)
    assert asked["sync_batchnorm"] is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer"), True),
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]:30500"), True),
        (dist.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server crash?"), True),
        (dist.DistBackendError("NCCL error: a call failed possibly due to a network error or a remote process exiting"), True),
        (dist.DistBackendError("NCCL error: unhandled cuda error, out of memory"), False),
        (RuntimeError("CUDA out of memory"), False),
        (RuntimeError("the data server closed: connection reset by peer"), False),
    ],
)
def test_which_errors_mean_that_another_process_has_ended(error, expected):
    assert processes.is_loss(error) is expected


def children(code: int) -> processes.Launcher:
    launcher = processes.Launcher(None, 2, 1)
    launcher.children = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])]
    launcher.children[0].wait()
    return launcher


def test_a_child_that_was_told_to_stop_or_is_finished_has_not_failed():
    assert [children(code).failed() for code in (0, 75, 1, 2)] == [False, False, True, True]


@pytest.mark.parametrize("leaves", [True, False])
def test_the_command_gives_up_where_it_does_not_notice_by_itself(monkeypatch, leaves):
    monkeypatch.setattr(processes, "GRACE", 0.1)
    over, given_up = threading.Event(), threading.Event()
    if leaves:
        over.set()
    processes.watch(lambda: True, over, given_up.set)
    assert given_up.wait(1.5) is not leaves


def test_no_child_outlasts_the_command():
    launcher = processes.Launcher(None, 2, 1)
    launcher.children = [subprocess.Popen(["sleep", "60"])]
    launcher.end(0)
    assert launcher.children[0].returncode == -signal.SIGKILL


def test_a_run_is_the_same_with_another_number_of_processes(tmp_path):
    config = {"seed": 0, "method": {}, "attack": {}, "trainer": {"devices": 2, "num_nodes": 1, "max_epochs": 3}}
    fewer, other = ({**config, "trainer": config["trainer"] | values} for values in ({"devices": 1}, {"precision": "64-true"}))
    record.open_folder(tmp_path, config, resume=None)
    assert not record.is_finished(tmp_path, fewer)
    with pytest.raises(ValueError, match="another configuration"):
        record.is_finished(tmp_path, other)
    record.close_folder(tmp_path, {"clean": {"average": 1.0, "worst": 1.0, "worst_class": "a", "per_class": {"a": 1.0}}})
    assert record.is_finished(tmp_path, config) and record.is_finished(tmp_path, fewer)
    with pytest.raises(ValueError, match="another configuration"):
        record.is_finished(tmp_path, other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes that nothing interrupts."""
    return finish(tmp_path_factory.mktemp("whole") / "run", "trainer.devices=2", *TRAINED)


@pytest.mark.slow
def test_told_to_stop_through_any_process_it_ends_in_the_same_bits(whole, tmp_path):
    words, within = ("trainer.devices=2", *TRAINED), 0
    for name, rank in STOPS:
        command = Command(tmp_path / "parts", *words).after_an_epoch()
        command.send(name, rank)
        code, out, err = command.end()
        assert err.split("\n") == (["", SAVING, ""] if name == "SIGINT" else [""]), (name, rank, err)
        assert code == 75 and out.count("Stopped: the run is saved") == 1, (name, rank, code, out, err)
        within += "within" in torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
    assert within, "an epoch has 53 steps, and the processes agree every 20"
    equal(whole, finish(tmp_path / "parts", *words))


@pytest.mark.slow
def test_where_one_of_two_dies_the_same_command_goes_on_to_the_same_bits(whole, tmp_path):
    words = ("trainer.devices=2", *TRAINED)
    for rank in (1, 0):
        killed(Command(tmp_path / "parts", *words).after_an_epoch(), rank)
    equal(whole, finish(tmp_path / "parts", *words))


@pytest.mark.slow
def test_where_one_of_three_dies_the_others_end_with_one_line(tmp_path):
    words = ("trainer.devices=3", "trainer.max_epochs=4", "trainer.strategy=ddp_find_unused_parameters_true")
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # every parameter is used
    for rank in (2, 0):
        killed(Command(tmp_path / "parts", *words, **quiet).after_an_epoch(), rank)
    # Plain DDP sums the first step of a session in another order, which shows from three processes on.
    equal(finish(tmp_path / "whole", *words, **quiet), finish(tmp_path / "parts", *words, **quiet))


def killed(command: Command, rank: int) -> None:
    command.send("SIGKILL", rank)
    begun = time.monotonic()
    code, _, err = command.end()
    assert time.monotonic() - begun < 20
    assert code == (-signal.SIGKILL if rank == 0 else 1)
    assert err == f"error: {processes.Lost()}\n"


@pytest.mark.slow
def test_one_that_dies_before_they_have_met(tmp_path):
    command = Command(tmp_path / "run", "trainer.devices=2")
    while len(command.alive(all_of_it=False)) < 2:
        assert command.process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    killed(command, 1)


@pytest.mark.slow
def test_one_process_goes_on_where_two_have_stopped(tmp_path):
    command = Command(tmp_path / "run", "trainer.devices=2", *TRAINED).after_an_epoch()
    command.send("SIGUSR1", 1)
    assert command.end()[0] == 75
    folder = finish(tmp_path / "run", "trainer.devices=1", *TRAINED)
    assert epochs(folder) == 8 and torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 8 * 53


@pytest.mark.slow
def test_two_nodes_train_as_two_processes_of_one(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    words = ("trainer.devices=1", "trainer.num_nodes=2", *TRAINED)
    nodes = [Command(tmp_path / "run", *words, NODE_RANK=str(rank), **place) for rank in range(2)]
    ends = [node.end() for node in nodes]
    assert [code for code, _, _ in ends] == [0, 0] and not any(err for _, _, err in ends), ends
    assert "worst class" in ends[0][1] and ends[1][1] == ""
    equal(whole, tmp_path / "run")
