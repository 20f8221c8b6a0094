"""Weights out of files: every kind that is read, every line of refusal."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fairat_lightning.models import Normalized, load_weights, preactresnet_tiny, resnet18, wrn28_10

State = dict[str, Tensor]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def tiny(**changes: Any) -> Normalized:
    kwargs: dict[str, Any] = {"num_classes": 4, "in_channels": 3, "mean": MEAN, "std": STD, "width": 2}
    return preactresnet_tiny(**(kwargs | changes))


@pytest.fixture
def trained() -> Normalized:
    """A net that has seen data: batch statistics and counters moved."""
    torch.manual_seed(1)
    net = tiny()
    net(torch.rand(8, 3, 8, 8))
    return net


def inner(net: Normalized) -> State:
    return net.model.state_dict()


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def without_counters(state: State) -> State:
    return {name: value for name, value in state.items() if "num_batches" not in name}


FILES: dict[str, Callable[[Normalized], Any]] = {
    "ours.ckpt": lambda net: {
        "epoch": 3,
        "hyper_parameters": {"data": "digits"},
        "state_dict": {"class_weights": torch.ones(9)} | prefixed("net.", net.state_dict()),
        "current_model_state": prefixed("net.", tiny().state_dict()),
    },
    "compiled.ckpt": lambda net: {"state_dict": prefixed("net._orig_mod.", net.state_dict())},
    "wrapped.pt": lambda net: net.state_dict(),
    "plain.pth": inner,
    "nested.pt": lambda net: {"state_dict": inner(net), "epoch": 3},
    "model.pt": lambda net: {"model": inner(net)},
    "net.pt": lambda net: {"net": prefixed("module.", inner(net)), "acc": 0.8},
    "parallel.pt": lambda net: prefixed("module.", net.state_dict()),
    "inner_compiled.pt": lambda net: prefixed("model._orig_mod.", inner(net)),
    "no_counters.pt": lambda net: without_counters(inner(net)),
}


@pytest.mark.parametrize("name", FILES)
def test_round_trip(name: str, trained: Normalized, tmp_path: Path) -> None:
    torch.save(FILES[name](trained), tmp_path / name)
    net, x = tiny().eval(), torch.rand(5, 3, 8, 8)
    assert not torch.equal(net(x), trained.eval()(x))
    load_weights(net, tmp_path / name)
    torch.testing.assert_close(net(x), trained(x), rtol=0, atol=0)
    assert net.mean.flatten().tolist() == pytest.approx(MEAN)


def test_safetensors_and_a_run_folder(trained: Normalized, tmp_path: Path) -> None:
    save_file(trained.state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "checkpoints").mkdir()
    torch.save(FILES["ours.ckpt"](trained), tmp_path / "checkpoints" / "best.ckpt")
    for path in (tmp_path / "net.safetensors", tmp_path, str(tmp_path)):
        net = tiny()
        load_weights(net, path)
        assert all(torch.equal(value, trained.state_dict()[name]) for name, value in net.state_dict().items())


def test_formats_and_modes_of_the_net_stay(trained: Normalized, tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in inner(trained).items()}, tmp_path / "plain.pt")
    net = tiny(channels_last=True).double().eval()
    load_weights(net, tmp_path / "plain.pt")
    weight = net.get_parameter("model.layer1.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) and weight.dtype == torch.double
    torch.testing.assert_close(weight.float(), trained.get_parameter("model.layer1.0.conv1.weight"), rtol=1e-3, atol=1e-6)
    assert not net.training


def test_the_stage_that_trades_never_calls_is_dropped(tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"num_classes": 4, "in_channels": 3, "mean": MEAN, "std": STD, "width": 1}
    public = inner(wrn28_10(**kwargs))
    unused = {f"sub_{name}": value for name, value in public.items() if name.startswith("block1.")}
    torch.save(prefixed("module.", public | unused), tmp_path / "wrn.pt")
    net = wrn28_10(**kwargs)
    load_weights(net, tmp_path / "wrn.pt")
    assert torch.equal(inner(net)["fc.weight"], public["fc.weight"])


def test_a_mean_for_all_channels_equals_one_a_channel(trained: Normalized, tmp_path: Path) -> None:
    statistics = {"mean": torch.tensor(0.5), "std": torch.full((1, 3, 1, 1), 0.25)}
    torch.save(inner(trained) | statistics, tmp_path / "a.pt")
    load_weights(tiny(mean=[0.5], std=[0.25]), tmp_path / "a.pt")


def resnet() -> Normalized:
    return resnet18(num_classes=4, in_channels=3, mean=MEAN, std=STD, width=2)


def without(name: str) -> State:
    return {key: value for key, value in inner(tiny()).items() if key != name}


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "classes": (
        lambda: inner(tiny(num_classes=7)),
        "linear.weight has shape (7, 8) in the file and (4, 8) here (another number of classes",
    ),
    "width": (
        lambda: inner(tiny(width=3)),
        "conv1.weight has shape (3, 3, 3, 3) in the file and (2, 3, 3, 3) here",
    ),
    "channels": (
        lambda: tiny(in_channels=1, mean=[0.5], std=[0.2]).state_dict(),
        "conv1.weight has shape (2, 1, 3, 3) in the file",
    ),
    "architecture": (
        lambda: inner(resnet()),
        "holds another architecture: 4 of this network's tensors are missing (first bn.weight), ",
    ),
    "missing": (lambda: without("bn.bias"), "1 of this network's tensors are missing (first bn.bias)"),
    "statistics": (lambda: without("bn.running_mean"), "are missing (first bn.running_mean)"),
    "unexpected": (
        lambda: inner(tiny()) | {"fc.bias": torch.ones(1)},
        "holds another architecture: 1 of the file's tensors are unknown to it (first fc.bias)",
    ),
    "mean": (
        lambda: tiny(mean=[0.4914, 0.4822, 0.4465]).state_dict(),
        "was trained with mean [0.4914,0.4822,0.4465], std [0.2,0.25,0.3]: "
        "set model.mean=[0.4914,0.4822,0.4465] model.std=[0.2,0.25,0.3]",
    ),
    "std": (
        lambda: {"state_dict": prefixed("net.", tiny(std=[0.5]).state_dict())},
        "set model.mean=[0.5,0.4,0.3] model.std=[0.5,0.5,0.5]",
    ),
    "two": (
        lambda: inner(tiny()) | prefixed("module.", inner(tiny())),
        "holds 2 sets of weights for this network: choose one, key=., key=module",
    ),
    "twice": (
        lambda: {"conv1.weight": torch.ones(1), "_orig_mod.conv1.weight": torch.ones(1)},
        "holds more than one network (conv1.weight occurs twice)",
    ),
    "empty": (lambda: {"state_dict": {}, "epoch": 1}, "holds no network weights"),
    "list": (lambda: [torch.ones(1)], "holds no network weights"),
    "module": (lambda: nn.Linear(2, 2), "holds torch.nn.modules.linear.Linear and not only tensors: refused"),
}


def refusal(path: Path, net: Normalized | None = None) -> str:
    """The one line of the refusal, which names the path and leaves the net as it was."""
    net = net or tiny()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}") as error:
        load_weights(net, path)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    return str(error.value)


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, line = REFUSED[case]
    torch.save(content(), tmp_path / "file.pt")
    assert line in refusal(tmp_path / "file.pt")


@pytest.mark.parametrize("name", ["file.pt", "file.ckpt", "file.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "noise"])
def test_a_damaged_file_is_refused(name: str, damage: str, trained: Normalized, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(inner(trained), path)
    else:
        torch.save(inner(trained), path)
    cut = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes({"empty": b"", "text": b"hello world", "cut": cut, "noise": bytes(range(256))}[damage])
    assert "cannot be read" in refusal(path)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.pt")
    assert "holds no checkpoints/best.ckpt" in refusal(tmp_path)


class Code:
    """Pickled, it is a command that runs when the pickle is read."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("form", ["zip", "raw"])
def test_a_pickle_with_code_is_refused_and_does_not_run(form: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    content = {"state_dict": {"net.a": Code(proof)}}
    if form == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    assert "refused, since reading it could run code" in refusal(path)
    assert not proof.exists()
    if form == "raw":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert proof.exists()  # the same bytes do run where nothing refuses them


def test_within_autocast_the_next_forward_sees_the_weights_that_were_loaded(trained, tmp_path):
    """Autocast's cache of casts is on in a loop of one's own; Lightning switches it off."""
    net, x, path = tiny().eval(), torch.rand(2, 3, 8, 8), tmp_path / "weights.pt"
    torch.save(trained.state_dict(), path)
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
        load_weights(net, path)
        assert torch.equal(net(x), trained.eval()(x))
