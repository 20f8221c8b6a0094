"""Two and three processes equal one, for every method, in float64, to 1e-9: loss, gradients under AWP, what it learns between
epochs, what it logs, the selection score, the test, averages of the weights.

The network has no batch statistics and the attacks start alike. The processes hold unequal shares of the batch. They start once,
and one process group of a size serves all methods.
"""

from contextlib import nullcontext
from copy import deepcopy
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import yaml
from helpers import quick_for
from torch import nn

from fairat_lightning import attacks
from fairat_lightning.attacks import PGD
from fairat_lightning.averaging import EMA, FAWA
from fairat_lightning.awp import AWP
from fairat_lightning.classwise import VerdictMeter, global_mean
from fairat_lightning.config.compose import CONF
from fairat_lightning.data.batches import DrawnBatches
from fairat_lightning.methods import (
    ABSLD,
    BAT,
    CFA,
    CFOL,
    CODAT,
    CSR,
    DAFA,
    FAAL,
    FLOOR,
    FRL,
    HAM,
    TRIX,
    WAT,
    AdversarialTraining,
    DecoSAM,
    FairARD,
    FairAT,
    FairTAT,
    VariancePenalty,
)
from fairat_lightning.metrics import ClassFairness
from fairat_lightning.objectives import AT, TRADES

ATTACK = PGD(eps=0.1, steps=3)
SHARED = {"attack": ATTACK, "objective": TRADES(6.0), "optim": None, "awp": AWP(0.05)}
KINDS = (
    *("plain", "faal", "memory", "count_weighted", "fairat", "frl", "frl_normalized", "bat", "wat", "cfa", "dafa"),
    *(
        "cfol",
        "cfol_uniform",
        "csr",
        "fair_tat",
        "fair_tat_cfp",
        "fair_tat_counts",
        "codat",
        "fair_ard",
        "floor",
        "absld",
        "absld_released",
        "ham",
        "ham_drop",
        "ham_confident",
        "ham_confident_drop",
        "trix",
        "variance",
        "variance_harl",
        "variance_released",
        "decosam",
    ),
)

SHARES = {1: (0, 11), 2: (0, 7, 11), 3: (0, 5, 9, 11)}  # of the batch, where each process's begins and ends


def build(kind: str, net: nn.Module, shared: dict):
    """The method of one kind, with the state it would have in the middle of a training."""
    values = {
        "plain": (AdversarialTraining, {}),
        "faal": (FAAL, {"radius": 0.5}),
        "memory": (FAAL, {"radius": 0.5, "memory": 0.9}),
        "count_weighted": (FAAL, {"radius": 0.5, "count_weighted": True}),
        "fairat": (FairAT, {"num_samples": 11, "hard_fraction": 0.4, "augmentation": "none"}),
        "frl": (FRL, {"mode": "both", "tau": (0.0, 0.0), "rate": 0.3, "margin_rate": 0.2, "limit": 0.5, "eps_range": (0.5, 3.0)}),
        "frl_normalized": (
            FRL,
            {"mode": "reweight", "tau": (0.0, 0.0), "rate": 0.3, "margin_rate": 0.2, "limit": 0.5, "eps_range": (0.5, 3.0)}
            | {"batch_normalized": True},
        ),
        "bat": (BAT, {"entropy": 1.0}),
        "wat": (WAT, {"eta": 0.5}),
        "cfa": (CFA, {"ccm": True, "ccr": True, "lambda1": 0.5, "lambda2": 0.5, "warmup": 0.0}),
        "dafa": (DAFA, {"strength": 1.0, "warmup": 0.3}),
        "cfol": (CFOL, {"eta": 0.01, "gamma": 0.5, "sampling": "class"}),
        "cfol_uniform": (CFOL, {"eta": 0.01, "gamma": 0.5, "sampling": "uniform"}),
        "csr": (CSR, {"share": 0.3, "gamma": 0.1}),
        "fair_tat": (FairTAT, {"sharpness": 2.0, "lambda1": 0.5, "scale": "robust"}),
        "fair_tat_cfp": (FairTAT, {"sharpness": 2.0, "lambda1": 0.5, "scale": "cfp", "cfp_factor": 2.0}),
        "fair_tat_counts": (
            FairTAT,
            {"sharpness": 2.0, "lambda1": 0.5, "scale": ["cfn", "target_robust", "target_cfp", "target_cfn"]},
        ),
        "codat": (CODAT, {"rho": 0.5}),
        "fair_ard": (FairARD, {"temperature": 30.0, "alpha": 0.7, "power": 2.0, "weight_range": (0.5, 2.5)}),
        "absld": (ABSLD, {"share": 0.8, "rate": 0.1, "temperature_range": (0.5, 5.0)}),
        "absld_released": (
            ABSLD,
            {"share": 0.8, "rate": 0.1, "temperature_range": (0.5, 5.0)}
            | {"aliased": True, "reduction": "mean", "class_loss": "sum"},
        ),
        "decosam": (DecoSAM, {"tau": 1.0, "radius": 0.5}),
        "ham": (HAM, {"decide_after": 1, "warmup": 0.0, "drop": False}),
        "ham_drop": (HAM, {"decide_after": 1, "warmup": 0.0, "drop": True}),
        "ham_confident": (HAM, {"decide_after": 1, "warmup": 0.0, "drop": False, "keep_confident": 0.4}),
        "ham_confident_drop": (HAM, {"decide_after": 1, "warmup": 0.0, "drop": True, "keep_confident": 0.4}),
        "trix": (TRIX, {"lambda1": 0.5, "lambda2": 0.5}),
        "variance": (
            VariancePenalty,
            {"variance": 1.0, "concentration": 0.5, "weight": 1.0, "over": "classes", "present_only": True},
        ),
        "variance_harl": (
            VariancePenalty,
            {"variance": 1.0, "concentration": 0.5, "weight": 0.1, "over": "classes", "present_only": False},
        ),
        "variance_released": (
            VariancePenalty,
            {"variance": 1.0, "concentration": 0.0, "weight": 1.0, "over": "examples", "present_only": True, "padded_to": 100},
        ),
        "floor": (
            FLOOR,
            {"num_samples": 11, "hard_fraction": 0.4, "augmentation": "none", "radius": 0.5, "memory": 0.9},
        ),
    }
    assert set(values) == set(KINDS)
    target, settings = values[kind]
    if target in (FairARD, ABSLD):
        settings = {**settings, "teacher": deepcopy(net)}
    if target is DecoSAM:
        shared = {**shared, "awp": None}
    if target is ABSLD:
        shared = {**shared, "objective": AT()}
    method = target(net, 5, **settings, **shared)
    for name, buffer in method.named_buffers():
        if name in ("cumulative_cost", "log_weight", "class_robust", "class_iterates"):
            buffer.copy_(torch.linspace(0.1, 0.9, len(buffer)))
    return method.double()


def gradients(kind: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    """An epoch of one step on this process's share, its validation and a test; what must agree on every process."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    x, y, index = torch.rand(11, 3, 2, 2).double(), torch.randint(4, (11,)), torch.arange(11)  # class 4 is absent
    if kind.startswith("ham"):  # class 0 cannot be fooled: the first process keeps nothing, the others some or all
        net[3].bias.data[0] += 5
        y[:7], y[7:] = 0, torch.arange(1, 5) % 4
    mine = slice(*SHARES[world][rank : rank + 2])
    share = [(x[mine], y[mine], index[mine])]
    method = build(kind, net, SHARED)
    logged = {}
    method.log = lambda key, value, **_: logged.update({key: torch.as_tensor(value).double()})
    method.log_dict = lambda values, **_: logged.update({key: torch.as_tensor(value).double() for key, value in values.items()})
    plugin = SimpleNamespace(forward_context=nullcontext)
    method._trainer = SimpleNamespace(
        current_epoch=0,
        max_epochs=2,
        callbacks=[SimpleNamespace(seeds_epochs=True)],  # the same random numbers in each process
        val_dataloaders=share,
        datamodule=SimpleNamespace(scoring_dataloader=lambda: share),
        precision_plugin=plugin,
        strategy=SimpleNamespace(broadcast=broadcast),
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
    )

    def offset(start, x, *_):
        # The same "random" start for an image wherever it lies.
        return 0.1 * torch.sin(1000 * x)

    def craft(x, y, *, scale=None, inner=None, start=None):
        return ATTACK((inner or method.objective.inner)(net, x, y), x, scale=scale, start=offset(start, x))

    method.craft = craft
    method.targets = lambda y: (y + 1) % 5
    method.drawn = {0: torch.linspace(0.1, 0.3, 5).double()}
    method.on_train_epoch_start()
    with patch.object(attacks, "_random_offset", offset):
        loss = method.training_step(share[0], 0)
    loss.backward()
    method.on_after_backward()
    found = {name: p.grad / world for name, p in net.named_parameters() if p.requires_grad} | {"loss": loss.detach() / world}
    if world > 1:
        for value in found.values():
            dist.all_reduce(value)
    found |= averages(method, found)
    found |= {f"weights {name}": p.detach() for name, p in net.named_parameters()}
    found["train_robust"] = method.train_robust.compute().nan_to_num(nan=-1)
    net.eval()
    method.validation_step(share[0], 0)
    method.on_validation_epoch_end()
    method.test_step(share[0], 0)
    method.on_test_epoch_end()
    net.train()
    method.on_train_epoch_end()
    assert "val/select" in logged and logged.pop("loss") is not None  # of a step: each process's own
    found |= {f"logged {key}": value for key, value in logged.items()}
    found |= {f"matrix {key}": value for key, value in method.matrices.items()}
    found |= {f"verdicts {key}": torch.stack(value) for key, value in method.verdicts.items()}
    assert all(matrix.sum() == 11 for matrix in method.matrices.values()), "every sample counts once"
    state = {name: value for name, value in method.named_buffers() if not name.startswith("net.")}
    found |= {f"state {name}": value.double().nan_to_num(nan=-1) for name, value in state.items()}
    found["class_robust"] = method.validation_robust().nan_to_num(nan=-1)
    if kind == "fairat":
        found |= masks(method)
    if kind == "cfol":
        found["drawn"] = drawn(method, rank, world)
    return found


def averages(method, gradient: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A step of descent, EMA over it, and what FAWA's gate says; the weights go back."""
    ema, fawa, before = EMA(0.9), FAWA(0.5, 0.1, 0.0), deepcopy(method.net.state_dict())
    ema.average = SimpleNamespace(module=SimpleNamespace(net=deepcopy(method.net)))
    ema.update(method)
    with torch.no_grad():
        for name, p in method.net.named_parameters():
            p -= 0.1 * gradient.get(name, torch.zeros(()))
    ema.update(method)
    found = {f"average {name}": p.detach() for name, p in ema.average.module.net.named_parameters()}
    found["admitted"] = torch.tensor(float(fawa.admits(method)))
    method.net.load_state_dict(before)
    return found


def drawn(method: CFOL, rank: int, world: int) -> torch.Tensor:
    """The images of the epoch's batches, put together from all processes."""
    targets = torch.arange(20) % 4
    method.share.copy_(targets.bincount(minlength=5) / 20)
    batches = torch.zeros(3, 6, dtype=torch.long)
    for k, images in enumerate(DrawnBatches(targets, method.draw, 6, seed=0, rank=rank, world=world)):
        batches[k, rank::world] = torch.tensor(images)
    if world > 1:
        dist.all_reduce(batches)
    return batches


def broadcast(value):
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def masks(method: FairAT) -> dict[str, torch.Tensor]:
    """The scores and the masks that FairAT makes of its share of the training set."""
    hard = method.hard
    hard.sample_loss.copy_(hard.score(method))
    found = {"scores": hard.sample_loss.clone(), "hard": hard.choose(broadcast).double()}
    assert found["hard"].sum() == 4
    hard.subset = "random"
    torch.manual_seed(0 if not dist.is_initialized() else 7 * dist.get_rank())  # the first process decides
    return found | {"random": hard.choose(broadcast).double()}


def metrics(rank: int, world: int) -> dict[str, torch.Tensor]:
    """The fairness figures and the verdicts of what each process has seen; class 4 is absent."""
    torch.manual_seed(1)
    y, predicted, index = torch.randint(4, (31,)), torch.randint(5, (31,)), torch.randperm(31)
    mine = slice(*{1: (0, 31), 2: (0, 20, 31), 3: (0, 9, 10, 31)}[world][rank : rank + 2])
    fairness, verdicts = ClassFairness(5), VerdictMeter()
    fairness.update(predicted[mine], y[mine])
    verdicts.update(index[mine], y[mine], predicted[mine])
    found = {name: torch.tensor(value) for name, value in fairness.compute().items()}
    return found | dict(zip(("index", "label", "predicted"), verdicts.compute(), strict=True))


def statistics(rank: int, world: int) -> dict[str, torch.Tensor]:
    """What batch norm has seen in a step: the first process's share, on every process; another layer's buffers stay."""
    torch.manual_seed(rank)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))
    net.register_buffer("own", torch.tensor(float(rank)))
    net(torch.rand(6, 3, 2, 2))
    AdversarialTraining(net, 5, **SHARED).on_after_backward()
    assert net.own == rank
    return {name: buffer for name, buffer in net[1].named_buffers()}


def everything(kind: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    return {"metrics": metrics, "statistics": statistics}.get(kind, lambda *place: gradients(kind, *place))(rank, world)


ALL = (*KINDS, "metrics", "statistics")


def worker(rank: int, folder: str, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save({kind: everything(kind, rank, world) for kind in ALL}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=quick_for([2, 3], 2))
def several(tmp_path_factory, request):
    """What each of so many processes found."""
    folder = tmp_path_factory.mktemp("gloo")
    multiprocessing.set_forkserver_preload(["lightning", "fairat_lightning.methods"])  # imported once, not by each of them
    multiprocessing.start_processes(worker, (str(folder), request.param), nprocs=request.param, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("kind", ALL)
def test_several_processes_equal_one(several, kind):
    one = everything(kind, 0, 1)
    for process in several:
        assert set(process[kind]) == set(one)
        for name, value in one.items():
            torch.testing.assert_close(process[kind][name], value, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_every_method_is_here():
    classes = {type(build(kind, nn.Linear(1, 5), SHARED)).__name__ for kind in KINDS}
    files = [yaml.safe_load(path.read_text()) for path in (CONF / "method").glob("*.yaml") if path.stem != "custom"]
    targets = [file.get("method", file)["_target_"] for file in files]
    assert classes == {target.rpartition(".")[2] for target in targets} - {"Standard"}


def test_one_process_needs_no_group():
    assert not dist.is_initialized()
    values = torch.rand(3)
    assert torch.equal(global_mean(values), values.mean())
