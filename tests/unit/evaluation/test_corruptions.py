import numpy as np
import pytest
import torch
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.evaluation.audit import Audit
from fairat_lightning.evaluation.corruptions import KINDS, Corruptions
from fairat_lightning.record.journal import Journal

N = 20


class ByBrightness(nn.Module):
    """Class 1 if the mean of the image is above a half."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([1 - mean, mean], dim=1)


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randint(256, (N, 3, 32, 32), dtype=torch.uint8), torch.arange(N) % 2


@pytest.fixture
def audit(images, tmp_path):
    def audit(name="s.jsonl", net=None, batch_size=7):
        pixels, labels = images
        journal = Journal(tmp_path / name, {})
        return Audit(
            net or ByBrightness(), pixels, labels, torch.arange(N), ["dark", "bright"],
            threat=PGD(eps=0.1, steps=1), journal=journal, batch_size=batch_size,
        )  # fmt: skip

    return audit


@pytest.fixture
def folder(images, tmp_path):
    """A folder as of CIFAR-10-C: severity s of `kind` is an image of one grey value that says both."""
    root = tmp_path / "C"
    root.mkdir()
    labels = images[1].numpy()
    np.save(root / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    for kind in KINDS:
        data = np.zeros((5 * N, 32, 32, 3), dtype=np.uint8)
        for severity in range(5):
            right = labels == 1
            if kind == "fog" and severity >= 3:
                right = np.zeros(N, dtype=bool)  # all dark: the bright class is lost
            data[severity * N : (severity + 1) * N] = np.where(right, 200, 50)[:, None, None, None]
        np.save(root / f"{kind}.npy", data)
    return root


def test_the_official_folder_is_read_severity_by_severity(audit, folder):
    found = Corruptions(str(folder), None, [1, 2, 3, 4, 5])(audit())
    assert found.metrics["fog"]["per_class"] == {"dark": 1.0, "bright": 0.6} and found.metrics["snow"]["worst"] == 1
    assert found.metrics["corruptions"]["per_class"]["bright"] == pytest.approx(1 - 2 / 75)
    assert found.metrics["fog"]["counts"] == {"dark": N // 2, "bright": N // 2} and "interval" not in found.metrics["fog"]
    assert "official" in found.notes[0]
    hard = Corruptions(str(folder), ["fog"], [5])(audit("t.jsonl"))
    assert hard.metrics["fog"]["worst"] == 0


def test_generated_ones_depend_on_the_image_alone(audit, images):
    pytest.importorskip("imagecorruptions")
    seen: dict[int, list] = {1: [], 7: []}
    for size in seen:
        net = ByBrightness()
        net.register_forward_hook(lambda _, x, y, size=size: seen[size].append(x[0].clone()))
        np.random.seed(size)
        before = np.random.get_state()[1].copy()
        Corruptions(None, None, [3])(audit(f"{size}.jsonl", net, size))
        assert (np.random.get_state()[1] == before).all(), "the global stream is left as it was"
    one, seven = (torch.cat(v) for v in seen.values())
    assert len(one) == N * 16 and torch.equal(one, seven) and one.amin() >= 0 and one.amax() <= 1
    clean = images[0].float() / 255
    for k, kind in enumerate(KINDS):
        assert not torch.equal(one[N * (k + 1) : N * (k + 2)], clean), kind


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda root: (root / "labels.npy").unlink(), "labels.npy is missing"),
        (lambda root: np.save(root / "labels.npy", np.zeros(5 * N)), "not those of the data's test set"),
        (lambda root: (root / "labels.npy").write_bytes(b"x"), "labels.npy is missing or damaged"),
    ],
)
def test_a_folder_that_is_another(audit, folder, images, change, words):
    change(folder)
    with pytest.raises(ValueError, match=words):
        Corruptions(str(folder), None, [1]).check(*images, torch.arange(N))


def test_a_file_of_another_shape(audit, folder):
    np.save(folder / "fog.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match="fog.npy is float64"):
        Corruptions(str(folder), ["fog"], [1]).check(audit().pixels, audit().labels, audit().index)


@pytest.mark.parametrize(
    "kinds,severities,words",
    [
        (["rain"], [1], "rain"),
        ("fog", [1], "must be lists"),
        (None, 3, "must be lists"),
        (None, [], "severities"),
        (None, [6], "severities"),
    ],
)
def test_wrong_values(kinds, severities, words):
    with pytest.raises(ValueError, match=words):
        Corruptions(None, kinds, severities)


def test_images_too_small_and_without_the_library(images, monkeypatch):
    with pytest.raises(ValueError, match="32x32 or more"):
        Corruptions(None, None, [1]).check(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.arange(2))
    monkeypatch.setitem(__import__("sys").modules, "imagecorruptions", None)
    with pytest.raises(ValueError, match=r"cannot be run, .* pip install -e \".*\[corruptions\]\""):
        Corruptions(None, None, [1]).check(*images, torch.arange(N))
