"""One side of a comparison, in a process of its own: `bench.py` starts it with a JSON line and asks for one step at a time.

    {"kind": "ours", "words": [...], "off": "..."}     this project's training step, one of its optimisations switched off
    {"kind": "published", "method": "faal", ...}       the step as published code does it, re-stated in `published.py`
    {"kind": "torchattacks", ...}                      a loop made of the usual packages, if the attack library is installed

Each answer is a line of JSON. A step is all that a training does for one batch: data, attack, loss, backward, optimiser.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

SPEC = json.loads(sys.argv[1])
if SPEC["kind"] == "ours":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is imported

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from cost import Candidate, clock  # noqa: E402


class Ours:
    """A method of this project with its loader, in the midst of a training, as `cost.py` holds it."""

    def __init__(self, spec: dict):
        from fairat_lightning import attacks
        from fairat_lightning.methods import base
        from fairat_lightning.running import machine as speed
        from fairat_lightning.training import run

        off = spec.get("off")
        if off == "keep_memory":
            run.keep_memory = lambda: None
        if off == "image-only gradients":
            attacks.pgd = _pgd_with_weight_gradients
            base.crafting = lambda net, attack, training: attacks.mode(net, training)
        if off == "fused optimiser":
            torch.optim.SGD = _unfused(torch.optim.SGD)  # type: ignore[misc]
            from fairat_lightning import optim

            optim.SGD = torch.optim.SGD  # type: ignore[misc]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with tempfile.TemporaryDirectory() as place:
            self.candidate = Candidate(spec["words"], Path(place), self.device, spec.get("batches"))
        method = self.candidate.method
        if spec.get("compile"):
            if reason := speed.compile_network(method.net, self.device):
                raise ImportError(reason)
            if self.device.type == "cuda":
                method.capture()
        self.data = self.candidate.data
        self.loader = iter(())
        self.fetching = 0.0

    def batch(self):
        from fairat_lightning.augment import crop_flip
        from fairat_lightning.data import as_float

        before = clock()
        batch = next(self.loader, None)
        if batch is None:
            self.loader = iter(self.data.train_dataloader())
            batch = next(self.loader)
        x, y, index = (t.to(self.device, non_blocking=True) for t in batch)
        x = crop_flip(as_float(x), padding=4, flip=True)
        self.fetching = clock() - before
        return x, y, index

    def step(self) -> dict:
        before = clock()
        self.candidate.take(self.batch())
        return {"seconds": clock() - before, "fetching": self.fetching}

    def count(self) -> dict:
        """FLOPs of one step's matrix products and convolutions, and the bytes that its kernels read and write, cached or not."""
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves
        from torch.utils.flop_counter import flop_registry

        class Count(TorchDispatchMode):  # torch's own counter does not stand autograd.grad
            flops = bytes = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                if func._overloadpacket in flop_registry:
                    self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
                if not func.is_view:
                    tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
                    self.bytes += sum(t.numel() * t.element_size() for t in tensors)
                return out

        batch = self.batch()
        with Count() as count:
            self.candidate.take(batch)
        return {"flops": count.flops, "bytes": count.bytes}

    def reading(self) -> dict:
        """The batches of an epoch alone, without a training step."""
        before = clock()
        images = sum(len(y) for _, y, _ in self.data.train_dataloader())
        return {"seconds": clock() - before, "images": images}

    def between(self) -> dict:
        return {"seconds": self.candidate.between()}

    def validation(self) -> dict:
        return {"seconds": self.candidate.validate()}

    def profile(self) -> dict:
        from torch.profiler import profile

        batch = self.batch()
        with profile() as p:
            self.candidate.take(batch)
        rows = sorted(p.key_averages(), key=lambda e: -_own(e))
        total = sum(map(_own, rows))
        return {"rows": [(e.key, round(_own(e) / total, 4), e.count) for e in rows[:12]], "seconds": total / 1e6}


def _own(event) -> float:
    on_gpu = torch.cuda.is_available()
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)


def _pgd_with_weight_gradients(loss, x, *, eps, step, steps, start="uniform", norm="linf", noise=None, second=None):
    """`attacks.pgd` for linf as it would be if it backpropagated into the weights too."""
    from fairat_lightning.attacks import _project, _random_offset

    adv = _project(x, start if isinstance(start, torch.Tensor) else _random_offset(start, x, eps, norm), eps, norm)
    for _ in range(steps):
        adv.requires_grad_(True)
        loss(adv).sum().backward()
        gradient, adv = adv.grad, adv.detach()
        adv = _project(x, adv - x + step * gradient.sign(), eps, norm)
    return adv


def _unfused(sgd):
    return lambda parameters, *, fused, **rest: sgd(parameters, **rest)


def side(spec: dict):
    if spec["kind"] == "ours":
        return Ours(spec)
    from published import Published, TorchAttacks

    return TorchAttacks(spec) if spec["kind"] == "torchattacks" else Published(spec)


def main() -> None:
    if SPEC.get("threads"):
        torch.set_num_threads(SPEC["threads"])
    try:
        mine = side(SPEC)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(getattr(mine, line.strip())()), flush=True)


if __name__ == "__main__":
    main()
