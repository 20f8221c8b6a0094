"""Files as other programs write them: under any keys, behind any prefix, with whatever stands beside the weights."""

import argparse
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairat_lightning.models import Normalized, load_weights, preactresnet_tiny
from fairat_lightning.models.weights import fitted

State = dict[str, Tensor]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def tiny(width: int = 2) -> Normalized:
    return preactresnet_tiny(num_classes=4, in_channels=3, mean=MEAN, std=STD, width=width)


def weights(seed: int = 1, width: int = 2) -> State:
    torch.manual_seed(seed)
    return tiny(width).model.state_dict()


def behind(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def beside() -> dict[str, Any]:
    """What trainings of others leave beside the weights."""
    return {
        "args": argparse.Namespace(lr=0.1, arch="tiny", nested=argparse.Namespace(a=1)),
        "best_acc": np.float64(0.9),
        "robust_acc": np.float32(0.5),
        "epoch": np.int64(3),
        "done": np.bool_(True),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    }


FILES: dict[str, Callable[[State], Any]] = {
    "state_dict": lambda w: {"state_dict": behind("module.", w)} | beside(),
    "model_state_dict": lambda w: {"model_state_dict": w} | beside(),
    "model_ema": lambda w: {"model_ema": behind("module.", w)},
    "ema_model": lambda w: {"ema_model": w},
    "student": lambda w: {"student": w},
    "student behind a prefix": lambda w: {"state_dict": behind("student.", w) | behind("teacher.", weights(width=3))},
    "nested": lambda w: {"checkpoint": {"model": {"state_dict": w}}},
    "backbone": lambda w: {"state_dict": behind("backbone.", w) | {"projector.0.weight": torch.ones(3)}},
    "unknown prefix": lambda w: behind("my_net.", w),
    "two prefixes": lambda w: {"net": behind("module.robust_net.", w)},
    "compiled within": lambda w: {f"module._orig_mod.{n}".replace("layer1.", "layer1._orig_mod."): v for n, v in w.items()},
    "averaged": lambda w: behind("module.", w) | {"n_averaged": torch.tensor(5)},
    "twice the same": lambda w: {"model": behind("module.model.", w) | behind("module.attacker.model.", w)},
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_others_is_read_without_editing(name: str, tmp_path: Path) -> None:
    torch.save(FILES[name](weights()), tmp_path / "file.pt")
    net = tiny()
    found = load_weights(net, tmp_path / "file.pt")
    assert all(torch.equal(value, weights()[n]) for n, value in net.model.state_dict().items())
    assert found.normalisation is None and not found.ours and "of file.pt" in found.text
    assert ("left out 1 tensor" in found.text) == (name == "backbone")


FRONTS: dict[str, Callable[[State, Tensor, Tensor], State]] = {
    "a Sequential": lambda w, m, s: {"0.mean": m, "0.std": s} | behind("1.", w),
    "behind module": lambda w, m, s: {"module.0.mean": m, "module.0.std": s} | behind("module.1.", w),
    "normalize": lambda w, m, s: {"normalize.mean": m, "normalize.std": s} | behind("model.", w),
    "normalize of the network": lambda w, m, s: {"normalize.mean": m, "normalize.std": s} | w,
    "mu and sigma": lambda w, m, s: {"mu": m, "sigma": s} | w,
    "mu and sigma behind module": lambda w, m, s: behind("module.", {"mu": m, "sigma": s} | w),
    "mean and std": lambda w, m, s: {"mean": m, "std": s} | w,
    "means and sds": lambda w, m, s: {"0.means": m, "0.sds": s} | behind("1.", w),
    "of an attacker too": lambda w, m, s: (
        {"module.normalizer.new_mean": m, "module.normalizer.new_std": s}
        | {"module.attacker.normalize.new_mean": m, "module.attacker.normalize.new_std": s}
        | behind("module.model.", w)
        | behind("module.attacker.model.", w)
    ),
}


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("shape", [(3,), (1, 3, 1, 1)])
def test_a_layer_in_front_states_the_normalisation(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]).view(shape), torch.tensor([0.247, 0.2435, 0.2616]).view(shape)
    torch.save(FRONTS[name](weights(), mean, std), tmp_path / "file.pt")
    found = fitted(tiny(), tmp_path / "file.pt")
    assert found.normalisation == ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]) and not found.ours
    assert set(found.state) == set(tiny().state_dict()) - {"mean", "std"}


def test_a_file_of_ours_says_so(tmp_path: Path) -> None:
    for name, content in {"a": tiny().state_dict(), "b": {"state_dict": behind("net.", tiny().state_dict())}}.items():
        torch.save(content, tmp_path / name)
        found = fitted(tiny(), tmp_path / name)
        assert found.ours and found.normalisation == (MEAN, STD)


SEVERAL: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "keys": (lambda: {"model": weights(1), "model_ema": weights(2)}, {"model": 1, "model_ema": 2}),
    "wrapped": (
        lambda: {"state_dict": {"a": torch.ones(1)}, "model": weights(1), "ema": behind("module.", weights(2))},
        {"model": 1, "ema": 2, "ema.module": 2},
    ),
    "prefixes": (
        lambda: {"state_dict": behind("student.model.", weights(1)) | behind("teacher.model.", weights(2))},
        {"student": 1, "teacher": 2, "state_dict.student.model": 1},
    ),
    "plain and a prefix": (lambda: weights(1) | behind("ema.", weights(2)), {".": 1, "ema": 2}),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_sets_the_key_says_which(name: str, tmp_path: Path) -> None:
    content, keys = SEVERAL[name]
    path = tmp_path / "file.pt"
    torch.save(content(), path)
    for key, seed in keys.items():
        state = fitted(tiny(), path, key).state
        assert torch.equal(state["model.conv1.weight"], weights(seed)["conv1.weight"]), key
    shown = list(keys)[:2]
    with pytest.raises(ValueError, match="holds 2 sets of weights for this network: choose one, ") as error:
        fitted(tiny(), path)
    assert str(error.value).endswith(f"choose one, key={shown[0]}, key={shown[1]}")
    with pytest.raises(ValueError, match="no weights for this network at key=other: it has ") as error:
        fitted(tiny(), path, "other")
    assert str(error.value).endswith(f"it has key={shown[0]}, key={shown[1]}")


def test_a_key_is_checked_where_there_is_one_set_too(tmp_path: Path) -> None:
    torch.save({"model": weights(1)}, tmp_path / "file.pt")
    assert fitted(tiny(), tmp_path / "file.pt", "model").state
    with pytest.raises(ValueError, match="at key=ema: it has key=model$"):
        fitted(tiny(), tmp_path / "file.pt", "ema")


def test_an_average_of_ours_is_not_asked_about(tmp_path: Path) -> None:
    """Lightning keeps the average in "state_dict" and the weights in training beside it."""
    state = [{f"net.{name}": v for name, v in (tiny().state_dict() | behind("model.", weights(k))).items()} for k in (1, 2)]
    torch.save({"state_dict": state[0], "current_model_state": state[1]}, tmp_path / "file.ckpt")
    assert torch.equal(fitted(tiny(), tmp_path / "file.ckpt").state["model.conv1.weight"], weights(1)["conv1.weight"])
    current = fitted(tiny(), tmp_path / "file.ckpt", "current_model_state").state
    assert torch.equal(current["model.conv1.weight"], weights(2)["conv1.weight"])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a path": (lambda: {"model": weights(), "cfg": pathlib.PurePosixPath("x")}, "PurePosixPath and not only tensors: refused"),
    "a function": (lambda: {"model": weights(), "fn": argparse.ArgumentParser}, "argparse.ArgumentParser and not only"),
    "an array": (lambda: {"model": weights(), "losses": np.zeros(3)}, "_reconstruct and not only tensors: refused"),
    "a layer of weights in front": (
        lambda: {"0.weight": torch.ones(3)} | behind("1.", weights()),
        "unknown to it (first 0.weight)",
    ),
    "other weights beside an unknown prefix": (
        lambda: behind("my_net.", weights()) | {"other.weight": torch.ones(3)},
        "1 of the file's tensors are unknown to it (first other.weight)",
    ),
    "a mean without a std": (lambda: {"mean": torch.ones(3)} | weights(), "unknown to it (first mean)"),
    "a std of 0": (lambda: {"mean": torch.ones(3), "std": torch.zeros(3)} | weights(), "unknown to it (first mean)"),
    "two normalisations": (
        lambda: {"a.mean": torch.ones(3), "a.std": torch.ones(3), "b.mean": torch.zeros(3), "b.std": torch.ones(3)} | weights(),
        "holds several normalisations (a.mean, a.std, b.mean, b.std)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, line = REFUSED[name]
    torch.save(content(), tmp_path / "file.pt")
    with pytest.raises(ValueError) as error:
        fitted(tiny(), tmp_path / "file.pt")
    assert line in str(error.value) and str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_a_namespace_runs_nothing_of_its_contents(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return pathlib.Path.touch, (tmp_path / "ran",)

    torch.save({"model": weights(), "args": argparse.Namespace(a=Code())}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="refused"):
        fitted(tiny(), tmp_path / "file.pt")
    assert not (tmp_path / "ran").exists()


def test_scalars_of_a_numpy_of_before_are_read_by_their_old_name(tmp_path: Path) -> None:
    torch.save({"model": weights(), "acc": np.float64(0.5)}, tmp_path / "new.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "new.pt").read_bytes()
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in old  # numpy 1 writes it itself
    (tmp_path / "old.pt").write_bytes(old)
    assert fitted(tiny(), tmp_path / "old.pt").state


def test_a_network_that_wraps_another_takes_the_weights_of_either(tmp_path: Path) -> None:
    class Wrapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))

    inner = Wrapping().model.state_dict()
    for name, state in {"inner": inner, "outer": behind("model.", inner)}.items():
        torch.save(state, tmp_path / name)
        net = Normalized(Wrapping(), [0.0], [1.0], in_channels=3)
        load_weights(net, tmp_path / name)
        assert torch.equal(net.state_dict()["model.model.1.weight"], inner["1.weight"])
