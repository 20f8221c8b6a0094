import json

import pytest
import torch

from fairat_lightning.classwise import VerdictMeter
from fairat_lightning.record.journal import Batch, Journal, Share, by_stage, read, write

BATCHES = [Batch("clean", [4, 2], [0, 1], [0, 2]), Batch("clean", [9], [1], [1], [0.5]), Batch("square", [4, 9], [0, 1], [1, 1])]


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "samples.jsonl", {"seed": 0})
    for batch in BATCHES:
        journal.append(batch)
    return tmp_path / "samples.jsonl"


def test_what_was_written_is_read(path, tmp_path):
    header, batches = read(path)
    assert header == {"seed": 0} and batches == BATCHES
    index, label, predicted = by_stage(batches)["clean"]
    assert (index.tolist(), label.tolist(), predicted.tolist()) == ([2, 4, 9], [1, 0, 1], [2, 0, 1])
    write(tmp_path / "other.jsonl", {"seed": 0}, BATCHES)
    assert (tmp_path / "other.jsonl").read_bytes() == path.read_bytes()


def test_a_kill_in_any_byte_loses_at_most_the_last_batch(path):
    whole = path.read_bytes()
    ends = [k + 1 for k, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        journal = Journal(path, {"seed": 0})
        assert journal.batches == BATCHES[: max(kept - 1, 0)]
        for batch in BATCHES[len(journal.batches) :]:
            journal.append(batch)
        assert path.read_bytes() == whole


def test_damage_is_refused_and_nothing_is_lost(path):
    whole = path.read_bytes()
    for k in range(0, whole.rindex(b"\n"), 7):
        if whole[k : k + 1] == b"\n":
            continue
        damaged = whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged at line") as error:
            Journal(path, {"seed": 0})
        assert "\n" not in str(error.value) and path.read_bytes() == damaged


def test_a_line_that_is_no_batch_is_refused(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[0], *lines[2:]]))
    with pytest.raises(ValueError, match="line 3: it is not a batch"):
        read(path)


def test_another_evaluation_is_refused(path):
    with pytest.raises(ValueError, match="another seed"):
        Journal(path, {"seed": 1})
    assert read(path)[1] == BATCHES
    assert json.loads(path.read_text().splitlines()[0])["seed"] == 0


@pytest.mark.parametrize(
    "there, here", [({"x": False}, {}), ({}, {"x": 0}), ({"x": []}, {"x": None}), (None, {"x": 1}), ({}, None)]
)
def test_what_differs_is_named_whatever_its_value(tmp_path, there, here):
    path = tmp_path / "samples.jsonl"
    Journal(path, {"config": there})
    with pytest.raises(
        ValueError, match=r"holds another evaluation \((x is \S+( set)? there and \S+( set)? here|another config)\)"
    ):
        Journal(path, {"config": here})


def test_verdicts_come_in_the_order_of_the_index():
    verdicts = VerdictMeter()
    verdicts.update(torch.tensor([3, 1]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    verdicts.update(torch.tensor([2]), torch.tensor([5]), torch.tensor([4]))
    assert [t.tolist() for t in verdicts.compute()] == [[1, 2, 3], [1, 5, 0], [0, 4, 0]]


def test_processes_read_each_other_line_by_line(path, tmp_path):
    journal = Journal(path, {"seed": 0})
    a, b = (Share(journal, rank, 2) for rank in range(2))
    assert a.gather() == [] and [a.claim("clean", 0), b.claim("clean", 0), b.claim("clean", 1)] == [True, False, True]
    new = [Batch("square", [k], [0], [1]) for k in range(3)]
    a.append(new[0])
    a.append(new[1])
    whole = (tmp_path / "samples-0.jsonl").read_bytes()
    for cut in range(len(whole) + 1):
        (tmp_path / "samples-0.jsonl").write_bytes(whole[:cut])
        b.gather()
        assert b.batches == [*BATCHES, *new[: max(whole[:cut].count(b"\n") - 1, 0)]]
    assert Journal(path, {"seed": 0}).batches == BATCHES and b.gather() == []
    b.append(new[2])
    journal.merge()
    assert journal.batches == read(path)[1] == [*BATCHES, *new] and journal.begun == 6
    assert [entry.name for entry in tmp_path.iterdir()] == ["samples.jsonl"]


def test_a_process_that_evaluates_something_else_is_found_out(path, tmp_path):
    journal = Journal(path, {"seed": 0})
    Journal(tmp_path / "samples-1.jsonl", {"seed": 1})
    with pytest.raises(ValueError, match="another seed"):
        Share(journal, 0, 2).gather()
    with pytest.raises(ValueError, match="another seed"):
        journal.merge()
