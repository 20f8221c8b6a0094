import csv
from types import SimpleNamespace

import pytest
import torch

from fairat_lightning.attacks import PGD
from fairat_lightning.averaging import EMA
from fairat_lightning.training import catastrophic_overfitting
from fairat_lightning.training.catastrophic_overfitting import Collapse


def trainer(own, robust, epoch=0, clean=0.8):
    metrics = {"train/robust": torch.tensor(own), "val/robust": torch.tensor(robust), "val/clean": torch.tensor(clean)}
    return SimpleNamespace(
        callbacks=[],
        callback_metrics=metrics,
        check_val_every_n_epoch=1,
        current_epoch=epoch,
        is_global_zero=True,
        progress_bar_callback=None,
        should_stop=False,
    )


def watch(collapse, epochs, method):
    last = None
    for epoch, (own, robust) in enumerate(epochs):
        last = trainer(own, robust, epoch)
        collapse.on_train_epoch_end(last, method)
    return last


HEALTHY = [(0.2, 0.25), (0.3, 0.35), (0.35, 0.3), (0.4, 0.36)]


def test_a_collapse_is_said_once_and_a_healthy_training_is_left_alone(capsys):
    collapse, method = Collapse("warn"), SimpleNamespace(attack=PGD(eps=0.1, steps=1))
    watch(collapse, [*HEALTHY, (0.3, 0.1)], method)  # a bad epoch: its own accuracy fell too
    assert collapse.epoch is None and not capsys.readouterr().out
    last = watch(collapse, [(0.8, 0.05), (0.9, 0.0)], method)
    out = capsys.readouterr().out
    assert collapse.epoch == 0 and out.count("CATASTROPHIC OVERFITTING in epoch 1") == 1
    assert "80.0%" in out and "5.0%" in out and "36.0%" in out and not last.should_stop


@pytest.mark.parametrize("steps, clean, alarm", [(1, 0.8, True), (9, 0.8, True), (10, 0.8, False), (1, 0.17, False)])
def test_only_few_steps_collapse_and_never_a_network_that_is_wrong_on_clean_images_too(steps, clean, alarm, capsys):
    """In a short training the running statistics of the batch norms lag behind, and validation fails as a whole."""
    collapse, method = Collapse("warn"), SimpleNamespace(attack=PGD(eps=0.1, steps=steps))
    watch(collapse, HEALTHY, method)
    collapse.on_train_epoch_end(trainer(0.67, 0.01, clean=clean), method)
    assert ("CATASTROPHIC" in capsys.readouterr().out) == alarm == (collapse.epoch is not None)


def test_a_collapsed_epoch_is_never_what_is_kept(launch, capsys):
    with pytest.raises(SystemExit) as stop:
        launch("select=last", "on_collapse=stop")
    assert stop.value.code == 2 and "select=last with on_collapse=stop" in capsys.readouterr().err


def test_stop_and_strengthen_do_what_they_say_also_after_a_resume():
    attack = PGD(eps=0.1, steps=1, step="1 eps", start="uniform", noise=2)
    for action in ("stop", "strengthen"):
        collapse, method = Collapse(action), SimpleNamespace(attack=attack)
        last = watch(collapse, [*HEALTHY, (0.9, 0.02)], method)
        other, fresh, beginning = Collapse(action), SimpleNamespace(attack=attack), trainer(0.0, 0.0)
        other.load_state_dict(collapse.state_dict())
        other.on_fit_start(beginning, fresh)
        for t, m in ((last, method), (beginning, fresh)):
            assert t.should_stop == (action == "stop")
            assert m.attack == (attack if action == "stop" else PGD(eps=0.1, steps=10))


def test_an_unknown_action_is_refused():
    with pytest.raises(ValueError, match="on_collapse=panic"):
        Collapse("panic")


def test_what_a_collapse_changed_is_in_the_checkpoint_of_its_epoch(launch):
    """The guard comes before what writes the checkpoints: the last one knows the last epoch's robust accuracy."""
    folder, _ = launch("on_collapse=strengthen", "attack=n_fgsm", folder="healthy")
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert last["callbacks"]["Collapse"]["best"] == pytest.approx(max(float(row["val/robust"]) for row in rows))


def test_with_an_average_the_current_weights_are_watched(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(catastrophic_overfitting, "class_robust", lambda *given: asked.append(given) or torch.tensor([0.0, 0.1]))
    method = SimpleNamespace(attack=PGD(eps=0.1, steps=1), net="current weights", num_classes=2)
    collapse, healthy = Collapse("warn"), trainer(0.8, 0.5)  # the average is still at 50 %
    collapse.best, healthy.val_dataloaders, healthy.callbacks = 0.4, "the images of each epoch", [EMA(0.9)]
    collapse.on_train_epoch_end(healthy, method)
    assert (
        asked == [("current weights", "the images of each epoch", method.attack, 2)]
        and collapse.epoch == 0
        and "5.0% under PGD-10" in capsys.readouterr().out
    )
