"""Quick, standard, sweep, and the checks that tell robustness from masked gradients."""

import pytest
import torch
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.evaluation import autoattack
from fairat_lightning.evaluation.audit import Audit
from fairat_lightning.evaluation.sanity import sanity_checks
from fairat_lightning.evaluation.suites import EpsSweep, Quick, StandardSuite, _some
from fairat_lightning.record.journal import Journal

CLASSES = ["a", "b", "c", "d"]
THREAT = PGD(eps=0.05, steps=1)


class Staircase(nn.Module):
    """The same classifier behind a staircase: its gradient is zero everywhere."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net((x * 20).round() / 20)


class Steep(nn.Module):
    """The same classifier with logits so large that the cross-entropy of what is right underflows."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) * 1e5


@pytest.fixture(scope="module")
def trained():
    """A network trained by PGD on blobs, test images and labels."""
    torch.manual_seed(0)
    centres, y = torch.rand(4, 3, 6, 6), torch.arange(4).repeat(40)
    x = (centres[y] + 0.3 * torch.randn(160, 3, 6, 6)).clamp(0, 1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        adv = PGD(eps=0.05, steps=5)(lambda image: nn.functional.cross_entropy(net(image), y, reduction="none"), x)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(adv), y).backward()
        optimiser.step()
    return net.eval(), (centres[y] + 0.4 * torch.randn(160, 3, 6, 6)).clamp(0, 1), y


@pytest.fixture
def audit(trained, tmp_path):
    def audit(wrap=lambda net: net, name="s.jsonl", threat=THREAT):
        net, x, y = trained
        return Audit(wrap(net), x, y, torch.arange(len(y)), CLASSES, threat=threat, journal=Journal(tmp_path / name, {}))

    return audit


def checked(audit, images):
    return sanity_checks(audit, _some(audit, images))


def test_quick(audit):
    found = Quick()(audit())
    average = {name: record["average"] for name, record in found.metrics.items()}
    assert list(average) == ["clean", "fgsm", "pgd20", "cw20"] == list(found.titles)
    assert average["clean"] > average["fgsm"] >= average["pgd20"] > 0


def test_a_robust_network_passes_every_check(audit):
    found = StandardSuite(0.5, 80)(audit())
    assert [(c.name, c.passed) for c in found.checks if c.passed is not True] == []
    assert len(found.checks) == 7
    average = {name: record["average"] for name, record in found.metrics.items()}
    assert average["pgd100"] <= average["pgd20"] and average["multitargeted"] <= average["pgd20"]
    assert "pgd20_l2" in average and found.titles["pgd20_l2"] == "PGD-20 L2 0.5"


def test_a_staircase_is_caught(audit):
    checks = {c.name: c for c in checked(audit(Staircase, threat=PGD(eps=0.2, steps=1)), 80)}
    failed = {name for name, check in checks.items() if check.passed is False}
    assert {"nothing survives a large eps", "gradients can be followed", "a black box is not stronger"} <= failed
    assert "80 have a zero gradient" in checks["gradients can be followed"].detail


def test_steep_logits_are_caught(audit):
    failed = {c.name for c in checked(audit(Steep), 80) if c.passed is False}
    assert "gradients can be followed" in failed


def test_without_the_extra_the_black_box_is_not_run_and_says_so(audit, monkeypatch):
    monkeypatch.setattr(autoattack, "available", lambda: False)
    (check,) = [c for c in checked(audit(), 40) if c.passed is None]
    assert check.name == "a black box is not stronger" and "pip install" in check.detail


def test_what_the_data_does_not_suggest_is_not_run_and_said(audit):
    found = StandardSuite(None, 40)(audit())
    assert not [name for name in found.metrics if name.startswith("pgd20_")] and "PGD-20 in l2 was not run" in found.notes[0]


def test_the_time_to_go_ends_at_nothing_and_never_jumps_up_by_what_was_known(audit):
    """Every stage is in the plan from the start, and nothing is left of it at the end."""
    for other in (0.5, None):
        judged = audit(name=f"{other}.jsonl")
        planned = []
        judged.progress.begin = lambda stage, images, judged=judged, planned=planned: planned.append(
            stage in judged.progress.plan
        )
        StandardSuite(other, 40)(judged)
        assert all(planned) and not any(judged.progress.left.values())


def test_one_class_for_everything_is_said(audit):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.eye(4)[torch.zeros(len(x), dtype=torch.long)] + 0 * x.sum()

    assert any("the same class for every image" in note for note in StandardSuite(0.5, 40)(audit(lambda _: Constant())).notes)


def test_the_sweep_falls_to_nothing_class_by_class(audit):
    found = EpsSweep([0, 1, 4, 16])(audit())
    assert found.extra["curve"] == {"eps": [0.0, 0.05, 0.2, 0.8], "keys": ["pgd20@0", "pgd20@0.05", "pgd20@0.2", "pgd20@0.8"]}
    for name in CLASSES:
        curve = [found.metrics[key]["per_class"][name] for key in found.extra["curve"]["keys"]]
        assert curve == sorted(curve, reverse=True) and curve[0] > curve[-1] == 0


def test_it_all_goes_on_where_it_was_stopped(audit, tmp_path):
    whole = StandardSuite(0.5, 40)(audit(name="whole.jsonl"))
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines), 4):
        (tmp_path / "s.jsonl").write_bytes(b"".join(lines[:kept]))
        again = StandardSuite(0.5, 40)(audit())
        assert (again.metrics, again.checks) == (whole.metrics, whole.checks)
        assert (tmp_path / "s.jsonl").read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: StandardSuite("x", 5), "suite.other_eps=x"),
        (lambda: StandardSuite(0.5, 0), "suite.check_images=0"),
        (lambda: EpsSweep([]), "suite.multiples"),
        (lambda: EpsSweep([-1]), "suite.multiples"),
        (lambda: EpsSweep(["a"]), "suite.multiples"),
    ],
)
def test_wrong_values(make, words):
    with pytest.raises(ValueError, match=words):
        make()
