import numpy as np
import pytest
from helpers import old_metrics

from fairat_lightning import metrics
from fairat_lightning.record.reader import Hardest
from fairat_lightning.report import curves
from fairat_lightning.report.groups import gather
from fairat_lightning.report.runs import Group, Run


@pytest.fixture
def group(full_run):
    return gather([str(full_run)]).groups[0]


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_training_curves_have_a_line_for_each_row_and_the_selected_epoch(group):
    group.runs[0].facts["selected_epoch"] = 2
    figure = curves.training_curves([group, group])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["robust, worst class (%)", "robust (%)", "clean (%)"]
    worst = figure.axes[0].get_lines()
    assert worst[0].get_xdata().tolist() == [1, 2, 3, 4] and worst[0].get_ydata() == pytest.approx([30] * 4)
    assert worst[1].get_xdata().tolist() == [3] and worst[1].get_marker() == "o"


def test_seeds_are_averaged_over_the_epochs_they_have():
    histories = [[{"epoch": 0.0, "a": 0.2}, {"epoch": 1.0, "a": 0.4}], [{"epoch": 0.0, "a": 0.4}]]
    group = Group("A", [Run(None, history=history) for history in histories])
    epochs, middle, spread = curves.over_epochs(group, "a")
    assert epochs.tolist() == [1, 2] and middle == pytest.approx([30, 40]) and spread == pytest.approx([200**0.5, 0])


def test_class_weights_and_hard_classes_over_time(group):
    axes = curves.class_weights(group).axes[0]
    assert set(lines(axes)) == {"cat", "dog", "fox"} and lines(axes)["dog"].get_ydata() == pytest.approx([1.5] * 4)
    axes = curves.hard_share(group).axes[0]
    # The fox's column is empty.
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(np.array([[20.0] * 4, [40.0] * 4]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_of_many_classes_ten_lines_are_named():
    history = [{"epoch": 0.0, **{f"{curves.WEIGHT}c{k}": float(k) for k in range(40)}}]
    axes = curves.class_weights(Group("A", [Run(None, history=history)])).axes[0]
    assert set(lines(axes)) == {*(f"c{k}" for k in range(30, 40)), "30 other classes"}


def test_ten_classes_have_ten_colours():
    history = [{"epoch": 0.0, **{f"{curves.WEIGHT}c{k}": float(k) for k in range(10)}}]
    found = lines(curves.class_weights(Group("A", [Run(None, history=history)])).axes[0])
    assert len({line.get_color() for line in found.values()}) == 10 == len(found)


@pytest.mark.filterwarnings("error")
def test_a_class_without_figures_has_no_line(group):
    """Nor a place among the ten weakest, nor a warning."""
    names = tuple(f"c{k}" for k in range(12))
    for eps in ("0.01", "0.02"):
        record = old_metrics(None, *[0.1 + k / 20 for k in range(11)], names=names)["pgd20"]
        group.runs[0].summaries[f"pgd20@{eps}"] = record
    found = lines(curves.eps_curve(group, "linf").axes[0])
    assert set(found) == {*names[1:11], "average", "1 other class"}
    history = [{"epoch": 0.0, f"{curves.SHARE}a": float("nan"), f"{curves.SHARE}b": 0.2}]
    curves.hard_share(Group("A", [Run(None, history=history)]))


def test_the_eps_curve_has_every_class_and_the_average(group):
    found = lines(curves.eps_curve(group, "linf").axes[0])
    assert set(found) == {"cat", "dog", "fox", "average"}
    assert found["dog"].get_xdata().tolist() == [0.01, 0.02] and found["dog"].get_ydata() == pytest.approx([50, 30])
    assert found["average"].get_ydata() == pytest.approx([190 / 3, 50])


def test_the_eps_curve_has_every_eps_of_every_sweep_and_seed():
    """Two sweeps of one run, and a seed that met other eps: each eps is there, with the mean over the seeds that met it."""

    def swept(**found):
        summaries = {f"pgd20@{eps}": old_metrics(rate, rate, rate)["pgd20"] for eps, rate in found.items()}
        return Run(None, summaries=summaries, curves={"linf": {float(eps.replace("_", ".")): f"pgd20@{eps}" for eps in found}})

    eight = {f"0_{k}": 0.9 - k / 10 for k in range(8)}
    group = Group("A", [swept(**eight), swept(**{"0_0": 0.7, "0_9": 0.1})])
    line = lines(curves.eps_curve(group, "linf").axes[0])["cat"]
    assert line.get_xdata().tolist() == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9]
    assert line.get_ydata() == pytest.approx([80, 80, 70, 60, 50, 40, 30, 20, 10])


def test_the_shift_curve_goes_from_the_average_to_the_worst(group):
    (line,) = lines(curves.shift_curve([group], "pgd20", "PGD-20").axes[0]).values()
    assert line.get_xdata().tolist() == list(metrics.RADII)
    assert line.get_ydata()[0] == pytest.approx(50) and 30 <= line.get_ydata()[-1] < 35


def test_the_hardest_images_are_shown(group):
    hardest = group.runs[0].hardest
    figure = curves.hardest_images(hardest, ["cat", "dog"], "A")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 5 and shown[1].get_title() == "dog\nloss 1.0, 1×" and shown[2].get_title().startswith("2\n")
    many = Hardest(*(np.concatenate([part] * 20) for part in hardest))
    assert sum(bool(axes.images) for axes in curves.hardest_images(many, [], "A").axes) == curves.MOST_IMAGES
