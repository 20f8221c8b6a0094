"""The audit: a verdict on every image, whatever the suite."""

import pytest
import torch
from torch import nn

from fairat_lightning.attacks import PGD
from fairat_lightning.evaluation.attacks import predict
from fairat_lightning.evaluation.audit import Audit
from fairat_lightning.record.fingerprint import fingerprint
from fairat_lightning.record.journal import Journal, Share, read

CLASSES = ["cat", "dog", "fox"]


@pytest.fixture
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 3))


@pytest.fixture
def make(tmp_path, net):
    """An audit of 40 random images; anything can be replaced."""
    torch.manual_seed(1)
    pixels, labels = torch.rand(40, 3, 4, 4), torch.randint(3, (40,))

    def make(name="s.jsonl", **changes) -> Audit:
        given = {"net": net, "pixels": pixels, "labels": labels, "index": torch.arange(100, 140), "classes": CLASSES} | changes
        options = {key: given.pop(key) for key in list(given) if key in ("batch_size", "threat")}
        journal = Journal(tmp_path / name, {})
        return Audit(**given, journal=journal, **{"threat": PGD(eps=0.1, steps=1), "batch_size": 16} | options)

    return make


def test_a_stage_is_the_attack_in_batches_and_never_runs_twice(make, net):
    audit = make()
    predicted = audit.stage("pgd20", "pgd20")
    whole = predict(audit.net, audit.pixels, audit.labels, audit.index, audit.threat, "pgd20")
    assert torch.equal(predicted, whole) and len(audit.journal.batches) == 3
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(audit.stage("pgd20", "pgd20"), whole) and not calls
    again = make()
    assert torch.equal(again.stage("pgd20", "pgd20"), whole) and not calls
    record = again.summary("pgd20", whole)
    losses = torch.tensor([v for b in again.journal.batches for v in b.loss])
    assert record["class_loss"]["cat"] == pytest.approx(losses[audit.labels == 0].mean().item(), rel=1e-5)


def test_it_goes_on_after_the_last_finished_batch(make, tmp_path):
    whole = make("whole.jsonl").stage("cw20", "cw20")
    make().stage("cw20", "cw20")
    path = tmp_path / "s.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    assert torch.equal(make().stage("cw20", "cw20"), whole)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_audits_that_share_a_journal_judge_each_batch_once(make, net, tmp_path):
    """Two, a third of whose batches are those that three others had finished before; then the file is as from one."""
    one = make("whole.jsonl", batch_size=3)
    whole = one.stage("cw20", "cw20")
    batches, begun = one.journal.batches, [1, 6, 12]
    journal = Journal(tmp_path / "s.jsonl", {})
    for rank, number in enumerate(begun):
        Share(journal, rank, 3).append(batches[number])
    journal.merge()
    found: list[torch.Tensor] = []

    class First(Share):
        """When it has judged two batches, the second process judges what is left."""

        def claim(self, stage: str, number: int) -> bool:
            if len(self.batches) == len(begun) + 2:
                found.append(second.stage("cw20", "cw20"))
            return super().claim(stage, number)

    first, second = make(batch_size=3), make(batch_size=3)
    first.journal, second.journal = First(journal, 0, 2), Share(journal, 1, 2)
    found.append(first.stage("cw20", "cw20"))
    own = [read(tmp_path / f"s-{rank}.jsonl")[1] for rank in range(2)]
    assert all(torch.equal(predicted, whole) for predicted in found) and [len(part) for part in own] == [2, 9]
    assert sorted(batches.index(b) for part in own for b in part) == [k for k in range(14) if k not in begun]
    journal.settle(first.in_order())
    assert (tmp_path / "s.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.jsonl", "whole.jsonl"]


@pytest.mark.parametrize(
    "wrong,words",
    [
        ({"pixels": torch.full((40, 3, 4, 4), 1.5)}, r"must lie in \[0,1\]"),
        ({"pixels": torch.full((40, 3, 4, 4), float("nan"))}, r"must lie in \[0,1\]"),
        ({"labels": torch.full((40,), 3)}, "must be 0 to 2"),
        ({"labels": torch.zeros(39, dtype=torch.long)}, "39 labels"),
        ({"pixels": torch.rand(0, 3, 4, 4), "labels": torch.zeros(0).long(), "index": torch.zeros(0).long()}, "one or more"),
    ],
)
def test_wrong_images_and_labels(make, wrong, words):
    with pytest.raises(ValueError, match=words) as error:
        make(**wrong)
    assert "\n" not in str(error.value)


class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    "answer,words",
    [
        (lambda x: x.flatten(1)[:, :3] * torch.nan, "nan or infinite"),
        (lambda x: x.flatten(1)[:, :4], r"logits \(images, 3\)"),
        (lambda x: (x,), "tuple"),
    ],
)
def test_a_network_that_is_no_classifier(make, answer, words):
    audit = make(net=Odd(answer))
    with pytest.raises(ValueError, match=words):
        audit.stage("clean", None)
    assert audit.journal.batches == []


def test_fingerprint_sees_everything():
    a = {"x": torch.arange(4.0)}
    others = [{"y": torch.arange(4.0)}, {"x": torch.arange(4.0).view(2, 2)}, {"x": torch.arange(4)}, {"x": torch.arange(4.0) + 1}]
    assert fingerprint(a) == fingerprint({"x": torch.arange(4.0)})
    assert len({fingerprint(v) for v in [a, *others]}) == 5
