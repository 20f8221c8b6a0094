import json

from helpers import old_metrics

from fairat_lightning.report.gallery import MOST_ROWS, pictures
from fairat_lightning.report.groups import gather


def test_a_full_run_has_every_figure(full_run):
    found = pictures(gather([f"Fair AT/1={full_run}"]))
    names = [picture.name for picture in found]
    kinds = [
        "class_accuracies",
        "clean_against_robust",
        "confusion",
        "shift",
        "eps",
        "training",
        "class_weights",
        "hard",
        "hardest",
    ]
    own = {"confusion", "eps", "class_weights", "hard", "hardest"}
    assert names == [f"{kind}_1_fair_at_1" if kind in own else kind for kind in kinds]
    assert all(picture.caption.endswith(".") for picture in found)


def test_an_old_record_has_what_it_can_have(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(old_metrics(0.5, None, 0.7)))
    assert [picture.name for picture in pictures(gather([str(tmp_path)]))] == ["class_accuracies", "clean_against_robust"]


def test_names_differ_whatever_the_labels_are(make_run):
    labels = ["é", "ü", "A b", "a-b", *map(str, range(12))]
    names = [
        p.name for p in pictures(gather([f"{label}={make_run(f'r{k}', (0.5, 0.3, 0.7))}" for k, label in enumerate(labels)]))
    ]
    assert len(set(names)) == len(names) and sum(name.startswith("confusion") for name in names) == MOST_ROWS
