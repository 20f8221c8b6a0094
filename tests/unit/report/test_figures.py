import matplotlib
import numpy as np
import pytest
from helpers import old_metrics
from matplotlib import image
from matplotlib.colors import to_hex

from fairat_lightning.report import figures
from fairat_lightning.report.compare import rows
from fairat_lightning.report.groups import gather
from fairat_lightning.report.runs import Verdicts
from fairat_lightning.report.style import COLOURS, save

MANY = tuple(f"class {k}" for k in range(30))


def bars(figure):
    return [patch for patch in figure.axes[0].patches if patch.get_width() > 0]


def drawn(figure, tmp_path):
    save(figure, tmp_path / "figure.png")
    pixels = image.imread(tmp_path / "figure.png")
    return pixels.shape[0] > 200 and pixels.shape[1] > 200 and pixels.std() > 0.05


def test_accuracies_stand_side_by_side_one_colour_a_row(make_run, tmp_path):
    groups = gather([f"A={make_run('a', (0.5, 0.3, 0.7))}", f"B$={make_run('b', (0.6, 0.6, 0.7))}"]).groups
    figure = figures.class_accuracies(groups, "pgd20", "PGD-20")
    heights = [bar.get_height() for bar in bars(figure)]
    assert heights == pytest.approx([50, 30, 50, 70, 190 / 3, 60, 60, 70])
    assert figure.axes[0].get_ylabel() == "PGD-20 accuracy (%)"
    assert len({bar.get_facecolor() for bar in bars(figure)}) == len({bar.get_hatch() for bar in bars(figure)}) == 2
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["average", "dog", "cat", "fox"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B$"] and drawn(figure, tmp_path)


def test_a_row_that_has_not_met_the_attack_is_not_named(make_run):
    """And the rows behind it keep their colour."""
    words = [f"{name}={make_run(name.lower(), (0.5, 0.3, 0.7))}" for name in "ABC"]
    groups = gather(words).groups
    del groups[1].runs[0].summaries["pgd20"]
    for draw in (figures.class_accuracies, figures.clean_against_robust):
        figure = draw(groups, "pgd20", "PGD-20")
        assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["A", "C"]
        assert "B" not in [text.get_text() for text in figure.legends[0].get_texts()]
    figure = figures.class_accuracies(groups, "pgd20", "PGD-20")
    assert {to_hex(bar.get_facecolor()) for bar in bars(figure)} == {COLOURS[0], COLOURS[2]}
    figure = figures.class_accuracies(groups * 3, "pgd20", "PGD-20")  # so many that they are a map
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["A", "C"] * 3


def test_of_many_classes_the_weakest_are_drawn(make_run, tmp_path):
    accuracies = tuple((k + 2) / 40 for k in reversed(range(30)))
    (group,) = gather([str(make_run("a", accuracies, names=MANY, images=40))]).groups
    figure = figures.class_accuracies([group], "pgd20", "PGD-20")
    assert len(bars(figure)) == 21 and "10 stronger ones are not shown" in figure.axes[0].get_xlabel()
    assert figure.axes[0].get_xticklabels()[1].get_text() == "class 29" and drawn(figure, tmp_path)
    heat = figures.confusion([group.runs[0].verdicts["pgd20"]], MANY, "A")
    values = np.asarray(heat.axes[0].images[0].get_array())
    assert values.shape == (20, 21) and values.sum(1) == pytest.approx([100] * 20) and drawn(heat, tmp_path)


def test_many_rows_become_a_map(make_run, tmp_path):
    groups = gather([f"{k}={make_run(f'r{k}', (0.5, 0.3, 0.7))}" for k in range(30)]).groups
    figure = figures.class_accuracies(groups, "pgd20", "PGD-20")
    assert figure.axes[0].images[0].get_array()[0].tolist() == pytest.approx([30, 50, 70])
    assert figure.axes[0].get_title("left") == "PGD-20 accuracy (%)"
    assert figure.axes[0].images[0].get_array().shape == (30, 3) and drawn(figure, tmp_path)
    scatter = figures.clean_against_robust(groups, "pgd20", "PGD-20")
    assert len(scatter.axes[0].collections) == 30 and drawn(scatter, tmp_path)


def test_two_hundred_classes_are_drawn(tmp_path):
    names = tuple(f"n{k:08d}" for k in range(200))
    record = old_metrics(*[None if k == 7 else k / 200 for k in range(200)], names=names)
    figure = figures.class_bars({"one": record, "two": record}, ("pgd20",))
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [names[k] for k in range(21) if k != 7]
    assert figure.axes[0].get_xlabel() == "the 20 weakest classes; 179 stronger ones are not shown" and drawn(figure, tmp_path)
    falling = old_metrics(*[0.9 - k / 250 for k in range(200)], names=names)
    some = old_metrics(*[0.1 if k in (3, 4) else None for k in range(200)], names=names)
    shown = [
        [tick.get_text() for tick in figures.class_bars(runs, ("pgd20",)).axes[0].get_xticklabels()]
        for runs in ({"one": falling, "two": record}, {"one": some, "two": some})
    ]
    means = {n: a for n in names if (a := record["pgd20"]["per_class"][n]) is not None}
    means = {n: a + falling["pgd20"]["per_class"][n] for n, a in means.items()} | {names[7]: 2 * (0.9 - 7 / 250)}
    assert shown == [sorted(means, key=means.__getitem__)[:20], [names[3], names[4]]], "of all rows, and only what was measured"


def test_clean_against_robust_has_a_point_for_each_class(make_run, tmp_path):
    groups = gather([f"A={make_run('a', (0.5, 0.3, 0.7))}", f"B={make_run('b', (0.6, 0.6, 0.7))}"]).groups
    figure = figures.clean_against_robust(groups, "pgd20", "PGD-20")
    first, second = figure.axes[0].collections
    assert np.sort(np.asarray(first.get_offsets()), 0) == pytest.approx(np.array([(50, 30), (70, 50), (90, 70)]))
    assert first.get_paths()[0].vertices.shape != second.get_paths()[0].vertices.shape and drawn(figure, tmp_path)


def test_confusion_is_in_percent_of_the_true_class():
    verdicts = Verdicts(np.arange(4), np.array([0, 0, 0, 0]), np.array([0, 1, 1, 1]))
    values = np.ma.getdata(figures.confusion([verdicts, verdicts], ["a", "b"], "A").axes[0].images[0].get_array())
    assert values[0] == pytest.approx([25, 75]) and np.isnan(values[1]).all()


def test_bars_per_class_and_points_per_row(make_run, tmp_path):
    figures.draw_classes({"one": old_metrics(0.5, None, 0.7)}, tmp_path / "a.png")
    assert image.imread(tmp_path / "a.png").std() > 0.05
    figure = figures.class_bars({"one": old_metrics(0.5, 0.6, 0.7), "two": old_metrics(0.4, 0.5, 0.6)}, ("pgd20",))
    assert len(bars(figure)) == 6 and figure.axes[0].get_ylabel() == "PGD-20 accuracy (%)" and drawn(figure, tmp_path)
    report = gather([f"{k}={make_run(f'r{k}', (0.5, 0.3, 0.7))}" for k in range(6)])
    assert drawn(figures.row_points(rows(report)), tmp_path)


def test_a_figure_leaves_the_style_alone_and_a_pdf_has_no_time(make_run, tmp_path):
    before = dict(matplotlib.rcParams)
    groups = gather([str(make_run("a", (0.5, 0.3, 0.7)))]).groups
    for name in ("a", "b"):
        save(figures.class_accuracies(groups, "pgd20", "PGD-20"), tmp_path / f"{name}.pdf")
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert b"CreationDate" not in (tmp_path / "a.pdf").read_bytes() and dict(matplotlib.rcParams) == before
