import torch

from fairat_lightning.progress import Progress

CLASSES = ["cat", "dog", "fox"]


def test_time_to_go_is_measured_and_shrinks():
    progress = Progress(CLASSES)
    progress.expect({"clean": 1.0, "pgd20": 60.0}, 100)
    assert progress.remaining() == ""
    progress.begin("clean", 100)
    accuracy = torch.tensor([0.5, 0.2, float("nan")])
    progress.step("clean", 100, 0.5, accuracy)
    assert progress.remaining() == "about 30 s to go"
    progress.begin("pgd20", 100)
    progress.step("pgd20", 50, 15.0, accuracy)
    assert progress.remaining() == "about 15 s to go"
    progress.at_most = True
    progress.shorten(["pgd20"], 10)
    assert progress.remaining() == "up to about 3 s to go"


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
