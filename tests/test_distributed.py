"""Two processes equal one: class statistics, FAAL's weights, AWP, FairAT's masks, gradients and figures, in float64, to 1e-9.

The network has no batch statistics and the attacks start alike. The processes hold unequal shares of the batch.
"""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.awp import AWP
from fairat_lightning.classwise import global_mean
from fairat_lightning.methods import FAAL, AdversarialTraining, FairAT
from fairat_lightning.metrics import ClassFairness
from fairat_lightning.objectives import TRADES
from fairat_lightning.samples import Verdicts

ATTACK = PGD(eps=0.1, steps=3)


def gradients(kind: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    """One training step on this process's share; what must agree between one process and the mean over two."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    x, y, index = torch.rand(11, 3, 2, 2).double(), torch.randint(4, (11,)), torch.arange(11)  # class 4 is absent
    mine = slice(None) if world == 1 else (slice(0, 7) if rank == 0 else slice(7, 11))
    shared = {"attack": ATTACK, "objective": TRADES(6.0), "optim": None, "awp": AWP(0.05)}
    if kind == "faal":
        method = FAAL(net, 5, radius=0.5, **shared)
    elif kind == "count_weighted":
        method = FAAL(net, 5, radius=0.5, count_weighted=True, **shared)
    elif kind == "fairat":
        method = FairAT(net, 5, num_samples=11, hard_fraction=0.4, augmentation="none", **shared)
    else:
        method = AdversarialTraining(net, 5, **shared)
    method.log = lambda *_, **__: None
    # The same "random" start for an image wherever it lies.
    method.craft = lambda x, y: ATTACK(method.objective.inner(net, x, y), x, start=0.1 * torch.sin(1000 * x))
    loss = method.training_step((x[mine], y[mine], index[mine]), 0)
    loss.backward()
    method.on_after_backward()
    found = {name: p.grad / world for name, p in net.named_parameters()} | {"loss": loss.detach() / world}
    if world > 1:
        for value in found.values():
            dist.all_reduce(value)
    found |= {f"weights {name}": p.detach() for name, p in net.named_parameters()}
    found["train_robust"] = method.train_robust.compute().nan_to_num(nan=-1)
    if kind == "fairat":
        found |= masks(method, [(x[mine], y[mine], index[mine])])
    return found


def masks(method: FairAT, share: list) -> dict[str, torch.Tensor]:
    """The scores and the masks that FairAT makes of its share of the training set."""

    def broadcast(value):
        values = [value]
        if dist.is_initialized():
            dist.broadcast_object_list(values)
        return values[0]

    method._scoring_loader = lambda: share
    plugin = SimpleNamespace(forward_context=nullcontext)
    method._trainer = SimpleNamespace(strategy=SimpleNamespace(broadcast=broadcast), precision_plugin=plugin)
    method.sample_loss.copy_(method.score_training_set())
    found = {"scores": method.sample_loss.clone(), "hard": method.choose().double()}
    assert found["hard"].sum() == 4
    method.subset = "random"
    torch.manual_seed(0 if not dist.is_initialized() else 7 * dist.get_rank())  # the first process decides
    return found | {"random": method.choose().double()}


def metrics(rank: int, world: int) -> dict[str, torch.Tensor]:
    """The fairness figures and the verdicts of what each process has seen; class 4 is absent."""
    torch.manual_seed(1)
    y, predicted, index = torch.randint(4, (31,)), torch.randint(5, (31,)), torch.randperm(31)
    mine = slice(None) if world == 1 else (slice(0, 20) if rank == 0 else slice(20, 31))
    fairness, verdicts = ClassFairness(5), Verdicts()
    fairness.update(predicted[mine], y[mine])
    verdicts.update(index[mine], y[mine], predicted[mine])
    found = {name: torch.tensor(value) for name, value in fairness.compute().items()}
    return found | dict(zip(("index", "label", "predicted"), verdicts.compute(), strict=True))


KINDS = ("plain", "faal", "count_weighted", "fairat")


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    results = {kind: gradients(kind, rank, world) for kind in KINDS} | {"metrics": metrics(rank, world)}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    multiprocessing.spawn(worker, (2, str(folder)), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", [*KINDS, "metrics"])
def test_two_processes_equal_one(two, kind):
    one = metrics(0, 1) if kind == "metrics" else gradients(kind, 0, 1)
    for rank in range(2):
        assert set(two[rank][kind]) == set(one)
        for name, value in one.items():
            torch.testing.assert_close(two[rank][kind][name], value, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_one_process_needs_no_group():
    assert not dist.is_initialized()
    values = torch.rand(3)
    assert torch.equal(global_mean(values), values.mean())
