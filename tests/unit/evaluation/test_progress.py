import torch

from fairat_lightning.evaluation.progress import Progress

CLASSES = ["cat", "dog", "fox"]


def test_time_to_go_follows_from_the_attacks_measured():
    progress = Progress(CLASSES)
    progress.expect({"clean": 1.0, "pgd20": 60.0, "square": 120.0}, 100)
    accuracy = torch.tensor([0.5, 0.2, float("nan")])
    assert progress.remaining() == "no time measured yet"
    progress.begin("clean", 100)
    progress.step("clean", 100, 5.0, accuracy)
    assert progress.remaining() == "no time measured yet", "a forward pass says nothing of an attack"
    progress.begin("pgd20", 100)
    progress.step("pgd20", 50, 15.0, accuracy)
    assert progress.remaining() == "about 75 s to go"
    progress.shorten(["square"], 10)
    assert progress.remaining() == "about 21 s to go"
    progress.begin("square", 10)
    progress.step("square", 5, 1.0, accuracy)  # faster than thought
    progress.step("pgd20", 50, 15.0, accuracy)
    assert progress.remaining() == "about 1 s to go"


def test_where_there_are_only_forward_passes_they_are_the_measure():
    progress = Progress(CLASSES)
    progress.expect({"fog": 1.0, "snow": 1.0}, 100)
    progress.step("fog", 100, 4.0, torch.tensor([1.0]))
    assert progress.remaining() == "about 4 s to go"


def test_without_a_terminal_it_says_a_line_now_and_then(capsys):
    progress = Progress(CLASSES)
    progress.expect({"pgd20": 60.0}, 1000)
    progress.said -= 60
    progress.step("pgd20", 500, 3600.0, torch.tensor([0.5, 0.2, float("nan")]))
    out = capsys.readouterr().out
    assert out == "pgd20, 500 images left, about 1 h 00 min to go: average 35.0   cat 50.0  dog 20.0\n"
    progress.step("pgd20", 1, 1.0, torch.tensor([0.5, 0.2, float("nan")]))
    assert capsys.readouterr().out == ""
    progress.report("after APGD-CE", torch.tensor([0.5, 0.2, float("nan")]))
    assert capsys.readouterr().out == "after APGD-CE: average 35.0   cat 50.0  dog 20.0\n"
