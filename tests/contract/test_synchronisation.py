"""Nothing in a training step waits for the device: no number is read, no shape depends on a value.

On a CPU a dispatch mode stands where the GPU would wait; on CUDA torch itself looks (`set_sync_debug_mode`). Nor is a tensor left
behind on the CPU: on the meta device, which has shapes and no values, no operation may mix them.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from helpers import SMALL, options
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fairat_lightning.config.compose import resolved
from fairat_lightning.training import run as runs

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.unique_dim, aten._unique2, aten.equal, aten.bincount}
WAITING |= {aten.multinomial}


class Waits(TorchDispatchMode):
    """Raises where a kernel would make the host wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in WAITING, f"{func} waits for the device"
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            assert not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]), f"{func} with a mask waits"
        return func(*args, **(kwargs or {}))


class OneDevice(TorchDispatchMode):
    """Raises where an operation mixes tensors of the meta device and of the CPU, but for CPU scalars, as on a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if func.overloadpacket not in (aten.copy_, aten._to_copy):  # what copies from one to the other says so
            devices = {t.device.type for t in tensors if t.ndim or t.device.type == "meta"}
            assert len(devices) < 2, f"{func} mixes devices"
        return func(*args, **(kwargs or {}))


class Watch(Callback):
    """Holds a watch over each training step: crafting, loss, backward, optimiser, metrics and logging."""

    def __init__(self, on_gpu):
        self.on_gpu, self.steps, self.mode = on_gpu, 0, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps += 1
        if self.on_gpu:
            torch.cuda.set_sync_debug_mode("error" if self.steps > 2 else "default")
        else:
            self.mode = Waits().__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.end()

    def on_exception(self, trainer, pl_module, exception):
        self.end()

    def end(self):
        if self.on_gpu:
            torch.cuda.set_sync_debug_mode("default")
        elif self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode = None


CASES = [*(f"method={method}" for method in options("method")), "method=faal objective=trades awp=awp averaging=ema"]
CASES += ["method=faal method.memory=0.9", "method=fairat method.augmentation=trivialaugment", "method=pgd_at attack=n_fgsm"]


@pytest.mark.parametrize("words", CASES)
def test_a_training_step_never_waits(compose, tmp_path, words):
    on_gpu = torch.cuda.is_available()
    small = [word for word in SMALL if not (on_gpu and word == "trainer=cpu")]
    cfg = compose(*small, *words.split(), "trainer.max_epochs=3", "optim=onecycle", "data.padding=1", "data.flip=true")
    job = runs.prepare(OmegaConf.create(resolved(cfg)), tmp_path / "run")
    watch = Watch(on_gpu)
    # FAWA's gate, a pass over validation, comes after an epoch's last step: the watch must end before it.
    job.trainer.callbacks.insert(0 if "start" in (cfg.averaging or {}) else len(job.trainer.callbacks), watch)
    job.trainer.fit(job.method, job.datamodule)
    assert watch.steps == 6


def test_dropping_examples_from_a_batch_is_the_one_exception(compose, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("CUDA's own watch looks from the third step on")
    cfg = compose(*SMALL, "method=ham", "method.drop=true", "method.warmup=0")
    job = runs.prepare(OmegaConf.create(resolved(cfg)), tmp_path / "run")
    job.trainer.callbacks.append(Watch(False))
    with pytest.raises(AssertionError, match="waits for the device"):
        job.trainer.fit(job.method, job.datamodule)


def test_the_watch_can_see():
    with Waits():
        x = torch.arange(3.0)
        for wait in (lambda: x.sum().item(), lambda: x[x > 1], lambda: x.nonzero(), lambda: bool(x[0] > 0)):
            with pytest.raises(AssertionError, match="waits"):
                wait()


class Undrawn:
    """In the place of a random generator, which the meta device has none of."""

    def __new__(cls, device=None):
        return super().__new__(cls)

    def manual_seed(self, seed):
        return None


@pytest.mark.parametrize("method", options("method"))
@pytest.mark.parametrize("more", ["", "objective=trades awp=awp averaging=ema"])
def test_no_tensor_is_left_behind_on_the_cpu(compose, tmp_path, monkeypatch, method, more):
    words = [f"method={method}", *more.split() * (method not in ("standard", "bat", "absld", "decosam"))]
    words += ["method.sampling=uniform"] * (method == "cfol")  # which class was drawn is told by the data module
    job = runs.prepare(OmegaConf.create(resolved(compose(*SMALL, *words))), tmp_path / "run")
    module = job.method.to("meta")
    monkeypatch.setattr(torch, "Generator", Undrawn)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    module._trainer = SimpleNamespace(
        current_epoch=2, max_epochs=3, global_step=5, training=True, callbacks=job.trainer.callbacks
    )
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    counted = []  # torchmetrics' count has no meaning without values
    monkeypatch.setattr(module, "_metric", lambda *_: SimpleNamespace(update=lambda *tensors: counted.extend(tensors)))
    batch = [torch.rand(8, 1, 8, 8, device="meta"), *(torch.zeros(8, dtype=torch.long, device="meta") for _ in range(2))]
    module.on_fit_start()  # where a teacher follows its student
    with OneDevice():
        loss = module.training_step(batch, 0)
        loss.backward()
        module.on_after_backward()
    assert loss.device.type == "meta" and all(p.grad is not None for p in module.parameters() if p.requires_grad)
    module.eval()
    with OneDevice():
        module.validation_step(batch, 0)
    assert counted and all(tensor.device.type == "meta" for tensor in counted)


def test_a_tensor_on_the_cpu_is_found():
    there, here, index = torch.rand(3, 3, device="meta"), torch.rand(3, 3), torch.zeros(3, dtype=torch.long, device="meta")
    mixed = [lambda: there + here, lambda: here[index], lambda: F.linear(there, here), lambda: F.embedding(index, here)]
    mixed += [lambda: here.index_put_((index,), there[0]), lambda: here.gather(0, index[None])]
    for operation in mixed:
        with pytest.raises((RuntimeError, AssertionError), match="device"), OneDevice():
            operation()
    with OneDevice():
        assert (there + torch.tensor(1.0)).device.type == "meta"
