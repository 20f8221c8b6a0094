import ctypes
import json
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from helpers import SMALL
from lightning import Trainer
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.commands.one_run import run
from fairat_lightning.methods.parts.cuda_graph import Captured
from fairat_lightning.models import preactresnet_tiny
from fairat_lightning.running import machine as speed
from fairat_lightning.running.machine import (
    M_MMAP_THRESHOLD,
    best_precision,
    compile_network,
    flops,
    largest_batch,
    threads,
    threads_for,
)

SHAPE = {"num_classes": 3, "in_channels": 1, "mean": [0.5], "std": [0.25]}


@pytest.mark.parametrize("flags,best", [({"avx2"}, "32-true"), ({"avx512_bf16"}, "bf16-mixed"), ({"amx_bf16"}, "bf16-mixed")])
def test_the_precision_is_what_the_processor_can_do(monkeypatch, flags, best):
    monkeypatch.setattr(speed, "_cpu_flags", lambda: flags)
    assert best_precision("cpu") == best


@pytest.mark.parametrize(
    "words,flags,said",
    [
        ("trainer.precision=bf16-mixed", {"avx2"}, "trainer.precision=32-true"),
        ("trainer.precision=16-mixed", {"avx2"}, "trainer.precision=32-true"),
        ("trainer.precision=16-mixed", {"amx_bf16"}, "bf16-mixed is used instead"),
        ("attack.precision=bfloat16", {"avx2"}, "attack.precision=float32"),
        ("trainer.precision=bf16-mixed", {"amx_bf16"}, None),
        ("attack.precision=bfloat16", {"amx_bf16"}, None),
        ("trainer.precision=32-true", {"avx2"}, None),
        ("experiment=cifar10_cpu", {"avx2"}, None),
        ("", {"avx2"}, None),
    ],
)
def test_who_asks_for_a_precision_that_the_processor_lacks_is_told_the_word_to_give(compose, monkeypatch, words, flags, said):
    monkeypatch.setattr(speed, "_cpu_flags", lambda: flags)
    line = speed.slow_precision(compose("trainer=cpu", *words.split()))
    assert (line is None) == (said is None)
    if line is not None:
        assert said in line and words in line and "\n" not in line


def test_the_precision_is_in_the_configuration_by_name(compose, monkeypatch):
    from fairat_lightning.config.compose import resolved

    monkeypatch.setattr(speed, "_cpu_flags", lambda: {"avx512_bf16"})
    assert resolved(compose("trainer=cpu"))["trainer"]["precision"] == "bf16-mixed"
    assert resolved(compose("trainer=cpu", "trainer.precision=32-true"))["trainer"]["precision"] == "32-true"


def test_flops_are_counted_from_the_layers():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    assert flops(net.train(), torch.rand(2, 3, 8, 8)) == 2 * 2 * (36 * 4 * 27 + 144 * 5)
    assert net.training


@pytest.mark.parametrize("width,wanted", [(4, 1), (32, 4)])
def test_only_a_small_network_gets_one_thread(monkeypatch, width, wanted):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    net, batch = preactresnet_tiny(width=width, **SHAPE), torch.rand(128, 1, width, width)
    assert threads_for(net, batch) == wanted
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_for(net, batch) == 4


PAGES = """
import resource, sys, torch
from fairat_lightning.running.machine import keep_memory
if len(sys.argv) > 1:
    keep_memory()
def step():
    return [torch.ones(2**24) for _ in range(4)] and None
for _ in range(6):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_is_kept_from_step_to_step():
    """Four tensors of 64 MB are 65,536 pages each step; kept, next to none of them is new."""
    if not ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 30):
        pytest.skip("this malloc keeps no block above 32 MB")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    faults = [
        int(subprocess.run([sys.executable, "-c", PAGES, *words], env=environment, capture_output=True, check=True).stdout)
        for words in ([], ["keep"])
    ]
    assert faults[1] < faults[0] / 10


def test_the_largest_batch_leaves_a_quarter_to_spare():
    tried = []

    def step(size):
        tried.append(size)
        if size > 700:
            raise torch.OutOfMemoryError

    assert largest_batch(step) == 512 and tried == [80, 160, 320, 640, 1280]
    assert largest_batch(lambda size: None, most=256) == 256
    with pytest.raises(ValueError, match="not even 1024"):
        largest_batch(step, least=1024)


def test_without_a_compiler_the_reason_is_one_line_and_the_network_runs_as_it_is(monkeypatch, launch, capsys):
    def broken(*args, **kwargs):
        raise RuntimeError("no working C++ compiler\nat line 1")

    monkeypatch.setattr(torch, "compile", broken)
    assert compile_network(nn.Linear(1, 1), torch.device("cpu")) == "no working C++ compiler"
    launch("compile=true")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compile=true")]
    assert said == ["compile=true is not possible here: the network runs uncompiled (no working C++ compiler)"]


@pytest.mark.slow
def test_a_compiled_run_keeps_the_names_of_its_weights_and_its_verdicts(launch):
    plain, metrics = launch(folder="plain")
    compiled, fast = launch("compile=true", folder="compiled")
    a, b = (torch.load(f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in (plain, compiled))
    assert a.keys() == b.keys()
    one, other = (
        torch.cat([v.flatten() for k, v in s.items() if k.startswith("net.") and v.is_floating_point()]) for s in (a, b)
    )
    assert (one - other).norm() < 0.02 * one.norm()  # a rounding turns the sign of a small gradient in the attack
    assert fast["clean"]["average"] == pytest.approx(metrics["clean"]["average"], abs=0.05)


def test_every_run_of_a_process_is_compiled(monkeypatch):
    """Dynamo compiles a function eight times at most, and every network shares its functions with those before it."""
    compiled, begin = [], torch.compile

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda function, **given: begin(function, backend=backend))
    for number in range(1, 12):
        net = preactresnet_tiny(**SHAPE | {"width": number})
        assert speed.compile_network(net, torch.device("cpu")) is None
        before = len(compiled)
        net(torch.rand(2, 1, 8, 8))
        assert len(compiled) > before, number
    torch._dynamo.reset()


def test_an_attack_that_no_graph_can_hold_is_crafted_without_one(monkeypatch, capsys):
    states = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: "before")
    monkeypatch.setattr(torch.cuda, "set_rng_state", states.append)

    def fail(self, tensors):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Captured, "_record", fail)
    captured = Captured(nn.Identity(), lambda x, y: x + y)
    for _ in range(2):
        assert captured("key", torch.ones(2), torch.ones(2)).tolist() == [2, 2]
    said = "compile=true: the attack runs without a CUDA graph (operation not permitted when stream is capturing)\n"
    assert capsys.readouterr().out == said and states == ["before"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph")
@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_a_captured_attack_is_the_attack(start):
    net = preactresnet_tiny(**SHAPE).cuda().eval()
    attack = PGD(eps=0.1, steps=3, start=start)

    def craft(x, y):
        return attack(lambda image: nn.functional.cross_entropy(net(image), y, reduction="none"), x)

    captured = Captured(net, craft)
    for seed in range(3):
        x, y = torch.rand(8, 1, 8, 8).cuda(), torch.randint(3, (8,)).cuda()
        torch.manual_seed(seed)
        wanted = craft(x, y)
        torch.manual_seed(seed)
        torch.testing.assert_close(captured("key", x, y), wanted)
    assert len(captured.recorded) == 1


def test_a_batch_may_be_taken_in_parts(launch):
    """Two halves with accumulated gradients: as many optimiser steps as of whole batches, AWP and an average with them."""
    words = ("method=faal", "awp=awp", "averaging=ema", "data.batch_size=16", "trainer.accumulate_grad_batches=2")
    folder, _ = launch(*words)
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 * (64 // 32) and saved["callbacks"]["EMA"]["updates"] == 4


def test_the_peak_of_memory_is_recorded(launch):
    folder, _ = launch()
    assert 0.1 < json.loads((folder / "run.json").read_text())["memory"]["process_gb"] < 100


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_may_be_clipped(launch, precision):
    folder, _ = launch("trainer.gradient_clip_val=0.001", f"trainer.precision={precision}", "trainer.max_epochs=1")
    assert (folder / "metrics.json").exists()


@pytest.mark.parametrize(
    "words,what",
    [
        (("compile=true", "checkpointing=true"), "choose one of the two"),
        (("attack.precision=bfloat16", "trainer.precision=64-true"), "attack.precision=bfloat16 with"),
        (("compile=yes",), "compile=yes must be true or false"),
        (("on_collapse=panic",), "on_collapse=panic is unknown"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(compose, tmp_path, capsys, words, what):
    with pytest.raises(SystemExit) as stop:
        run(compose(*[word for word in SMALL if not word.startswith("trainer.precision")], *words), tmp_path / "run")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and what in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize("fault", [(), ("trainer.max_epochs=true",)])
def test_a_training_leaves_the_threads_of_its_process_as_they_were(monkeypatch, launch, fault):
    """The runs of a sweep share a process, and so do a training from Python and what comes after it."""
    seen, fit = [], Trainer.fit
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(Trainer, "fit", lambda *given, **options: seen.append(torch.get_num_threads()) or fit(*given, **options))
    with threads(2):
        with pytest.raises(SystemExit) if fault else nullcontext():
            launch(*fault)
        assert seen == ([] if fault else [1]) and torch.get_num_threads() == 2
