"""Verdicts equal the authors' loop, sample for sample; a kill changes nothing. Budgets are reduced: `results/` has full ones."""

import pytest
import torch
from helpers import quick_for
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.evaluation.audit import Audit
from fairat_lightning.evaluation.autoattack import APGD, AutoAttack
from fairat_lightning.record.journal import Journal, by_stage

pyautoattack = pytest.importorskip("pyautoattack")
STEPS, QUERIES = 10, 60


@pytest.fixture(scope="module")
def subject():
    """A small net trained adversarially on blobs, so that each attack has something left to break: net, images, labels."""
    torch.manual_seed(0)
    centres = torch.rand(6, 3, 6, 6)
    y = torch.arange(6).repeat(15)
    x = (centres[y] + 0.5 * torch.randn(90, 3, 6, 6)).clamp(0, 1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 6))
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    threat = PGD(eps=0.03, steps=3)
    for _ in range(60):
        adv = threat(lambda image: nn.functional.cross_entropy(net(image), y, reduction="none"), x)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(adv), y).backward()
        optimiser.step()
    return net.eval(), (x + 0.2 * torch.randn_like(x)).clamp(0, 1), y


def audit_of(subject, path, threat, *, batch_size=16, places=None, header=None):
    net, x, y = subject
    places = torch.arange(len(y)) if places is None else places
    classes = [str(k) for k in range(6)]
    journal = Journal(path, header or {})
    return Audit(net, x[places], y[places], places, classes, threat=threat, journal=journal, batch_size=batch_size)


def final(audit):
    predicted = torch.full((1000,), -1)
    for index, _, now in by_stage(audit.journal.batches).values():
        predicted[index] = torch.tensor(now)
    return predicted[audit.index]


THREATS = [PGD(eps=0.12, steps=1), PGD(eps=0.7, steps=1, norm="l2")]


@pytest.mark.parametrize("threat", THREATS, ids=["linf", "l2"])
def test_verdicts_are_the_authors(subject, tmp_path, threat):
    audit = audit_of(subject, tmp_path / "s.jsonl", threat)
    findings = AutoAttack(STEPS, QUERIES)(audit)
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    reference = pyautoattack.AutoAttack(subject[0], norm=norm, eps=threat.eps, seed=0, version="standard")
    reference.verbose = False
    reference.square.n_queries = QUERIES
    for attack in (reference.apgd, reference.apgd_targeted):
        attack.__init__(attack.model, n_iter=STEPS, norm=norm, eps=threat.eps, seed=0, device="cpu", **_own(attack))
    reference.fab.n_iter, reference.fab.n_target_classes = STEPS, 5
    x, y = subject[1:]
    _, predicted = reference.run_standard_evaluation(x, y, batch_size=16)
    assert torch.equal(final(audit), predicted)
    survivors = [findings.metrics[name]["average"] for name in ("clean", "apgd_ce", "apgd_t", "fab_t", "square")]
    assert survivors == sorted(survivors, reverse=True) and survivors[0] > survivors[1] > survivors[2] > 0
    assert findings.metrics["square"]["average"] == pytest.approx((predicted == y).float().view(15, 6).mean().item())


def _own(attack):
    return {"n_target_classes": 5} if hasattr(attack, "n_target_classes") else {"n_restarts": 1}


def test_every_attack_is_the_authors_also_where_nothing_is_left_for_it(subject, tmp_path):
    """FAB-T and Square seldom find more: here each is asked alone."""
    from fairat_lightning.evaluation.autoattack import attack

    audit = audit_of(subject, tmp_path / "s.jsonl", PGD(eps=0.3, steps=1))
    x, y, _ = audit.images(torch.arange(16))
    fab = pyautoattack.autoattack.FABAttack_PT(
        subject[0], norm="Linf", n_iter=STEPS, eps=0.3, seed=0, targeted=True, n_target_classes=5
    )
    square = pyautoattack.autoattack.SquareAttack(
        subject[0], norm="Linf", n_queries=QUERIES, eps=0.3, p_init=0.8, seed=0, resc_schedule=False
    )
    for name, other in (("fab_t", fab), ("square", square)):
        mine = attack(name, audit, x, y, steps=STEPS, queries=QUERIES)
        theirs = subject[0](other.perturb(x, y)).argmax(1)
        assert torch.equal(mine, theirs) and (mine != y).any(), name


@pytest.mark.parametrize("targets", [3, 9])
def test_apgd_is_the_first_half_under_a_name_of_its_own(subject, tmp_path, targets):
    whole = AutoAttack(STEPS, QUERIES)(audit_of(subject, tmp_path / "whole.jsonl", THREATS[0]))
    audit = audit_of(subject, tmp_path / "s.jsonl", THREATS[0])
    half = APGD(STEPS, targets)(audit)
    assert list(half.metrics) == ["clean", "apgd_ce", "apgd"] and half.headline == ["clean", "apgd"]
    assert half.titles["apgd"] == f"APGD-CE + APGD-T ({min(targets, 5)} targets), {STEPS} steps"
    assert half.metrics["apgd_ce"] == whole.metrics["apgd_ce"]
    if targets == 9:
        assert half.metrics["apgd"] == whole.metrics["apgd_t"]
    x, y, index = audit.images(
        torch.tensor([b for batch in audit.journal.batches if batch.stage == "apgd_t" for b in batch.index])
    )
    own = pyautoattack.autopgd_base.APGDAttack_targeted(
        subject[0], n_iter=STEPS, n_restarts=1, norm="Linf", eps=0.12, seed=0, device="cpu", n_target_classes=min(targets, 5)
    )
    theirs = torch.cat([subject[0](own.perturb(a, b)).argmax(1) for a, b in zip(x.split(16), y.split(16), strict=True)])
    assert torch.equal(torch.tensor([p for b in audit.journal.batches if b.stage == "apgd_t" for p in b.predicted]), theirs)
    assert not any("AutoAttack" in title for title in half.titles.values()) and "not AutoAttack" in half.notes[0]


@pytest.mark.parametrize("finished", quick_for(list(range(0, 13, 3)), 0, 6))
def test_a_kill_anywhere_leaves_the_same_record(subject, tmp_path, finished):
    AutoAttack(STEPS, QUERIES)(audit_of(subject, tmp_path / "whole.jsonl", THREATS[0]))
    whole = (tmp_path / "whole.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "s.jsonl").write_bytes(b"".join(lines[: 1 + finished]) + (lines + [b""])[1 + finished][:9])
    torch.manual_seed(finished)  # what the process drew before does not matter
    AutoAttack(STEPS, QUERIES)(audit_of(subject, tmp_path / "s.jsonl", THREATS[0]))
    assert (tmp_path / "s.jsonl").read_bytes() == whole


def test_survivors_are_packed_into_full_batches(subject, tmp_path):
    audit = audit_of(subject, tmp_path / "s.jsonl", THREATS[0])
    AutoAttack(STEPS, QUERIES)(audit)
    alive = None
    for stage in ("clean", "apgd_ce", "apgd_t", "fab_t", "square"):
        batches = [b for b in audit.journal.batches if b.stage == stage]
        size = 64 if stage == "clean" else 16  # a forward pass alone has room for more
        assert all(len(b.index) == size for b in batches[:-1])
        index = [i for b in batches for i in b.index]
        assert alive is None or index == alive, stage
        alive = [i for b in batches for i, y, now in zip(b.index, b.label, b.predicted, strict=True) if y == now]


def test_square_may_have_batches_of_its_own(subject, tmp_path):
    audit = audit_of(subject, tmp_path / "s.jsonl", THREATS[0])
    findings = AutoAttack(STEPS, QUERIES, square_batch_size=40)(audit)
    assert max(len(b.index) for b in audit.journal.batches if b.stage == "square") > 16
    assert any("40 in Square" in note for note in findings.notes)
    with pytest.raises(ValueError, match="suite.square_batch_size=0"):
        AutoAttack(square_batch_size=0)


def test_a_subset_is_judged_alone_and_absent_classes_are_none(subject, tmp_path):
    places = (subject[2] != 2).nonzero().flatten()
    audit = audit_of(subject, tmp_path / "s.jsonl", THREATS[0], places=places)
    findings = AutoAttack(STEPS, QUERIES)(audit)
    assert findings.metrics["square"]["per_class"]["2"] is None
    assert {i for b in audit.journal.batches for i in b.index} == set(places.tolist())


def test_its_name_is_kept_for_the_whole_suite(subject, tmp_path, monkeypatch):
    reduced = AutoAttack(STEPS, QUERIES)(audit_of(subject, tmp_path / "a.jsonl", THREATS[0]))
    assert "autoattack" not in reduced.metrics and "not the standard" in " ".join(reduced.notes)
    assert any("upper bound" in note for note in reduced.notes)
    for name, value in (("STEPS", STEPS), ("QUERIES", QUERIES)):
        monkeypatch.setattr(f"fairat_lightning.evaluation.autoattack.{name}", value)
    whole = AutoAttack(STEPS, QUERIES)(audit_of(subject, tmp_path / "b.jsonl", THREATS[0]))
    assert whole.titles["autoattack"] == "AutoAttack" and whole.headline == ["clean", "autoattack"]
    assert whole.metrics["autoattack"] == reduced.metrics["square"]


@pytest.mark.parametrize("count", [2, 3])
def test_below_four_classes_there_is_no_apgd_t(tmp_path, count):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, count))
    x = torch.rand(20, 3, 4, 4)
    y = net(x).argmax(1)
    journal = Journal(tmp_path / "s.jsonl", {})
    audit = Audit(net, x, y, torch.arange(20), list("abc"[:count]), threat=PGD(eps=0.02, steps=1), journal=journal)
    findings = AutoAttack(STEPS, QUERIES)(audit)
    assert "apgd_t" not in findings.metrics and "autoattack" not in findings.metrics
    assert f"{count} classes are too few for APGD-T" in " ".join(findings.notes)


def test_without_the_extra_it_says_so(monkeypatch):
    monkeypatch.setattr("fairat_lightning.evaluation.autoattack.available", lambda: False)
    with pytest.raises(ValueError, match=r"cannot be run: pyautoattack is not installed: pip install -e \".*\[autoattack\]\""):
        AutoAttack()


def test_a_record_of_other_images_is_refused(subject, tmp_path):
    AutoAttack(STEPS, QUERIES)(audit_of(subject, tmp_path / "s.jsonl", THREATS[0]))
    with pytest.raises(ValueError, match="holds other images or batches"):
        AutoAttack(STEPS, QUERIES)(audit_of(subject, tmp_path / "s.jsonl", THREATS[0], batch_size=8))
