import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from scipy import stats
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.evaluation import attacks
from fairat_lightning.evaluation.attacks import ATTACKS, craft, predict, seeded_start, seeded_uniform


@pytest.fixture
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 5)).double().eval()


@pytest.mark.parametrize("threat", [PGD(eps=0.05, steps=3), PGD(eps=0.3, steps=3, norm="l2")])
@pytest.mark.parametrize("attack", [None, *ATTACKS])
def test_a_prediction_depends_on_the_index_not_on_the_batch(net, threat, attack):
    x, y, index = torch.rand(12, 3, 4, 4).double(), torch.randint(5, (12,)), torch.randperm(1000)[:12]
    together = predict(net, x, y, index, threat, attack)
    alone = torch.cat([predict(net, x[i : i + 1], y[i : i + 1], index[i : i + 1], threat, attack) for i in range(12)])
    assert torch.equal(together, alone)
    if attack:
        adv = craft(net, x, y, index, threat, attack)
        backwards = craft(net, x.flip(0), y.flip(0), index.flip(0), threat, attack).flip(0)
        torch.testing.assert_close(adv, backwards)
        distance = (adv - x).flatten(1)
        size = distance.abs().amax(1) if threat.norm == "linf" else distance.norm(dim=1)
        assert (size <= threat.eps + 1e-12).all() and adv.amin() >= 0 and adv.amax() <= 1


def test_more_steps_are_stronger_and_each_attack_raises_its_own_loss(net):
    x = torch.rand(400, 3, 4, 4).double()
    y = net(x).argmax(1)
    index, threat = torch.arange(400), PGD(eps=0.03, steps=1)
    robust = {a: (predict(net, x, y, index, threat, a) == y).float().mean().item() for a in (None, *ATTACKS)}
    assert robust[None] == 1
    assert robust["pgd20"] <= robust["pgd10"] < 1 and robust["cw20"] < 1


def test_works_inside_inference_mode_and_under_autocast(net):
    net = net.float()
    x, y, index, threat = torch.rand(6, 3, 4, 4), torch.randint(5, (6,)), torch.arange(6), PGD(eps=0.05, steps=3)
    plain = predict(net, x, y, index, threat, "cw20")
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = predict(net, x.clone(), y.clone(), index.clone(), threat, "cw20")
    assert torch.equal(plain, inside)


@pytest.mark.parametrize("exact, autocast, inside", [(True, "bfloat16", "float32"), (False, "bfloat16", "bfloat16")])
@pytest.mark.parametrize("attack", [None, "pgd10"])
def test_only_what_need_not_be_exact_keeps_the_bfloat16_of_a_training(net, exact, autocast, inside, attack):
    net, seen = net.float(), set()
    net.register_forward_hook(lambda _, __, logits: seen.add(str(logits.dtype).removeprefix("torch.")))
    x, y, index, threat = torch.rand(6, 3, 4, 4), torch.randint(5, (6,)), torch.arange(6), PGD(eps=0.05, steps=3)
    with torch.autocast("cpu", dtype=getattr(torch, autocast)):
        predict(net, x, y, index, threat, attack, exact=exact)
    assert seen == {inside}
    for context in (nullcontext(), torch.autocast("cpu", dtype=torch.float16)):  # whose gradients at an image can vanish
        seen.clear()
        with context:
            predict(net, x, y, index, threat, attack, exact=False)
        assert seen == {"float32"}


BACKENDS = {  # what a session may have set before: each leaves torch in a state of its own
    "untouched": "pass",
    "as Lightning advises": "torch.set_float32_matmul_precision('medium')",
    "older switches": "torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cudnn.allow_tf32 = False",
    "newer switches": "torch.backends.cuda.matmul.fp32_precision = 'tf32'; torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "for all": "torch.backends.fp32_precision = 'tf32'",
    "cudnn": "torch.backends.cudnn.deterministic = False; torch.backends.cudnn.benchmark = True",
}
FLAGS = """
import torch
from fairat_lightning.evaluation.attacks import full_float32

def flags():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    found = [matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cudnn.deterministic, cudnn.benchmark]
    try:
        return [*found, torch.get_float32_matmul_precision()]
    except RuntimeError:  # both kinds of switches were used before
        return [*found, "mixed"]
"""


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9 has the older switches")
@pytest.mark.parametrize("before", BACKENDS)
def test_no_tf32_repeatable_bits_and_every_flag_as_it_was(before):
    """In a process of its own: some of these states cannot be left again."""
    code = f"{FLAGS}{BACKENDS[before]}\nfirst = flags()\nwith full_float32():\n    print(flags()[:5])\nassert flags() == first"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "['ieee', 'ieee', 'ieee', True, False]"), done.stderr


def test_a_verdict_is_in_full_float32(net, monkeypatch):
    entered = []
    monkeypatch.setattr(attacks, "full_float32", lambda: entered.append(1) or nullcontext())
    x, y, index = torch.rand(2, 3, 4, 4).double(), torch.randint(5, (2,)), torch.arange(2)
    predict(net, x, y, index, PGD(eps=0.05, steps=3), "pgd10")
    assert entered == [1]


def test_seeded_numbers_are_uniform_and_independent():
    u = seeded_uniform(torch.arange(300), 200)
    assert u.amin() >= 0 and u.amax() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01
    assert torch.corrcoef(u)[~torch.eye(300, dtype=torch.bool)].abs().amax() < 0.4
    assert abs(torch.corrcoef(torch.stack([u[:-1].flatten(), u[1:].flatten()]))[0, 1]) < 0.02
    assert torch.equal(seeded_uniform(torch.tensor([7]), 200)[0], u[7])


def test_seeded_uniform_is_splitmix64():
    """The first outputs of SplitMix64 from seed 0, by its published definition in whole numbers."""
    mask, state, expected = 2**64 - 1, 0, []
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        expected.append(((z ^ (z >> 31)) >> 11) / 2**53)
    assert seeded_uniform(torch.tensor([0]), 5)[0].tolist() == expected


def test_start_fills_the_ball():
    start = seeded_start(torch.rand(200, 1, 4, 4).double(), torch.arange(200), PGD(eps=0.1, steps=1))
    assert 0.099 < start.abs().amax() <= 0.1
