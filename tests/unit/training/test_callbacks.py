"""Which epoch is kept: the rules against a look at the whole history, and over a resume."""

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SMALL, call
from lightning.pytorch.callbacks import ModelCheckpoint

from fairat_lightning.metrics import class_accuracy, selection_score
from fairat_lightning.settings import ONE_SE
from fairat_lightning.training import callbacks
from fairat_lightning.training.callbacks import Keep


def by_hand(histories, counts):
    """The scores by sum, and their standard errors: each class a binomial with (right + 1) / (n + 2)."""
    scores, errors = [], []
    for right in histories:
        r = (np.array(right) / np.array(counts)).tolist()
        scores.append(float(torch.tensor(r).double().mean()) + min(r))  # equal ones to the bit, as torch adds
        variance = 0.0
        for k, (x, n) in enumerate(zip(right, counts, strict=True)):
            p = (x + 1) / (n + 2)
            variance += (1 / len(r) + (k == r.index(min(r)))) ** 2 * p * (1 - p) / n
        errors.append(variance**0.5)
    return scores, errors


def latest_within_one_error(scores, errors):
    """With the whole history at hand."""
    best = max(range(len(scores)), key=lambda e: (scores[e], e))
    return max(e for e, score in enumerate(scores) if score >= scores[best] - errors[best])


@pytest.fixture
def saved(monkeypatch):
    """The epochs that `Keep` has let Lightning save."""
    found = []
    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", lambda self, trainer, module: found.append(trainer.current_epoch))
    return found


def end_of_epoch(keep, epoch, right, counts):
    confusion = torch.diag(torch.tensor(right)) + torch.diag(torch.tensor(counts) - torch.tensor(right)).roll(1, 1)
    score = selection_score(class_accuracy(confusion), keep.select)
    trainer = SimpleNamespace(
        is_global_zero=True,
        callback_metrics={"val/select": score},
        current_epoch=epoch,
        check_val_every_n_epoch=1,
        should_stop=False,
    )
    keep.on_train_epoch_end(trainer, SimpleNamespace(matrices={"val/robust": confusion}))


def test_the_latest_epoch_within_one_standard_error_is_kept_after_every_epoch_and_over_resumes(saved, tmp_path):
    """At each moment what was saved last is what the whole history until then says; new highest scores come late, and ties."""
    random = np.random.default_rng(0)
    kinds = {"the highest": 0, "later than the highest": 0, "not the last": 0}
    for trial in range(150):
        classes, images = random.integers(2, 5), random.integers(3, 60 if trial % 2 else 12)
        counts = [int(n) for n in random.integers(images, images + 3, classes)]
        rates = np.clip(np.linspace(0.1, 0.6, 16)[:, None] + random.normal(0, 0.15, (16, classes)), 0, 1)
        if trial % 3 == 0:
            rates = rates[::-1]  # it becomes worse, as an overfitting one
        history = [[round(float(r) * n) for r, n in zip(row, counts, strict=True)] for row in rates]
        all_scores, all_errors = by_hand(history, counts)
        keep = Keep(tmp_path, ONE_SE)
        for epoch, right in enumerate(history):
            end_of_epoch(keep, epoch, right, counts)
            scores, errors = all_scores[: epoch + 1], all_errors[: epoch + 1]
            assert saved[-1] == latest_within_one_error(scores, errors), (trial, epoch)
            if random.random() < 0.2:
                state = io.BytesIO()
                torch.save(keep.state_dict(), state)
                keep = Keep(tmp_path, ONE_SE)
                keep.load_state_dict(torch.load(io.BytesIO(state.getvalue()), weights_only=True))
        best = int(np.argmax(scores))
        kinds["the highest"] += saved[-1] == best
        kinds["later than the highest"] += saved[-1] > best
        kinds["not the last"] += saved[-1] < len(history) - 1
        saved.clear()
    assert min(kinds.values()) > 15, kinds


def test_of_equal_scores_the_later_ones_error_counts(saved, tmp_path):
    history = [[0, 6], [1, 3], [0, 2]]  # the third lies below the first's reach, and within that of its equal
    scores, errors = by_hand(history, [16, 16])
    assert scores[0] == scores[1] and scores[0] - errors[0] > scores[2] > scores[1] - errors[1]
    keep = Keep(tmp_path, ONE_SE)
    for epoch, right in enumerate(history):
        end_of_epoch(keep, epoch, right, [16, 16])
    assert saved == [0, 1, 2] and latest_within_one_error(scores, errors) == 2


@pytest.mark.parametrize("select", ["sum", "worst", "average"])
def test_the_other_rules_leave_the_choice_to_lightning_and_know_their_error(saved, tmp_path, select):
    keep = Keep(tmp_path, select)
    for epoch, right in enumerate([[5, 9], [8, 7], [8, 7], [2, 2]]):
        end_of_epoch(keep, epoch, right, [10, 10])
    assert saved == [0, 1, 2, 3] and keep.monitor == "val/select" and keep.judged == 4
    p = np.array([9 / 12, 8 / 12])
    share = {"sum": [0.5, 1.5], "worst": [0.0, 1.0], "average": [0.5, 0.5]}[select]
    assert keep.error == pytest.approx(float(np.sqrt((np.square(share) * p * (1 - p) / 10).sum())))


def test_a_score_that_is_no_number_is_kept_only_where_there_is_nothing_else(saved, tmp_path):
    keep = Keep(tmp_path, ONE_SE)
    for epoch, score in enumerate([float("nan"), 0.5, float("nan")]):
        trainer = SimpleNamespace(
            is_global_zero=True,
            callback_metrics={"val/select": torch.tensor(score)},
            current_epoch=epoch,
            check_val_every_n_epoch=1,
            should_stop=False,
        )
        keep.on_train_epoch_end(trainer, SimpleNamespace(matrices={"val/robust": torch.eye(2).long()}))
    assert saved == [0, 1]


def test_a_checkpoint_of_version_0_1_is_taken_up(tmp_path):
    before = ModelCheckpoint(tmp_path, monitor="val/select", mode="max").state_dict()
    keep = Keep(tmp_path, "sum")
    keep.load_state_dict(before)
    assert keep.judged == 0


def test_a_run_keeps_the_weights_of_that_epoch(trained):
    words = ("method=pgd_at", "trainer.max_epochs=5", "data.train_size=200", "optim.lr=0.05", "optim.milestones=[]")
    folder, _ = trained(*words, f"select={ONE_SE}")
    rows = list(csv.DictReader((folder / "history.csv").open()))
    history = [[round(5 * float(v)) for k, v in row.items() if k.startswith("val/robust_class/")] for row in rows]
    scores, errors = by_hand(history, [5] * 4)
    assert [float(row["val/select"]) for row in rows] == pytest.approx(scores)
    kept = latest_within_one_error(scores, errors)
    assert torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == kept != int(np.argmax(scores))
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["selected_epoch"], facts["selected_by"]) == (kept, ONE_SE)


@pytest.mark.parametrize(
    "words,large,said",
    [
        ("select=sum", 0.03, True),
        ("select=worst val_every=2 trainer.max_epochs=3", 0.03, True),
        ("select=sum", 1.0, False),
        ("select=last", 0.03, False),
        (f"select={ONE_SE}", 0.03, False),
        ("trainer.max_epochs=1", 0.03, False),  # nothing to choose
    ],
)
def test_a_choice_by_chance_is_said_with_the_rules_that_help(monkeypatch, capsys, tmp_path, words, large, said):
    monkeypatch.setattr(callbacks, "LARGE", large)
    code, out, err = call(monkeypatch, capsys, tmp_path, *SMALL, *words.split())
    lines = [line for line in out.splitlines() if "standard error" in line]
    assert (code, err, len(lines)) == (0, "", int(said))
    assert not said or f"select=last or select={ONE_SE}" in lines[0] and words.split()[0] in lines[0]
