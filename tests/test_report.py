import json

import pytest
from matplotlib import image
from rich.console import Console

from fairat_lightning.report import class_table, draw_classes, draw_rows, group_rows, main, markdown, mean_of


def metrics(*accuracies, names=("cat", "dog", "fox")):
    present = [a for a in accuracies if a is not None]
    record = {
        "average": sum(present) / len(present),
        "worst": min(present),
        "worst_class": names[accuracies.index(min(present))],
        "per_class": dict(zip(names, accuracies, strict=True)),
    }
    return {name: record for name in ("clean", "pgd20", "cw20")}


@pytest.fixture
def runs(tmp_path):
    for k, values in enumerate([(0.5, 0.6, 0.7), (0.3, 0.8, 0.7), (0.45, 0.55, None)]):
        folder = tmp_path / f"r{k}"
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps(metrics(*values)))
        (folder / "run.json").write_text(json.dumps({"seed": k, "torch": "2"}))
    return tmp_path


def text_of(table, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_class_table_says_every_figure():
    text = text_of(class_table({"base": metrics(0.25, 0.5, None), "fair": metrics(0.4, 0.45, 0.5)}))
    for word in ("cat", "25.0", "37.5", "–", "worst class", "base", "fair"):
        assert word in text
    many = metrics(*[k / 100 for k in range(100)], names=tuple(f"c{k}" for k in range(100)))
    text = text_of(class_table({"run": many}))
    assert "c0 " in text and "c50" not in text and "90 stronger classes" in text


def test_seeds_are_grouped_with_mean_and_sample_deviation():
    groups = {"A": [metrics(0.5, 0.6, 0.7), metrics(0.3, 0.8, 0.7)], "B": [metrics(0.45, 0.55, None)]}
    a, b = group_rows(groups)
    assert a["runs"] == 2 and a["pgd20_worst"]["mean"] == pytest.approx(0.4)
    assert a["pgd20_worst"]["std"] == pytest.approx(0.02**0.5) and a["pgd20_worst"]["values"] == [0.5, 0.3]
    assert b["pgd20_worst"]["std"] is None
    assert "| A | 2 | 60.0 ± 0.0 | 40.0 ± 14.1 |" in markdown([a, b])
    merged = mean_of(groups["A"])["pgd20"]
    assert merged["per_class"] == pytest.approx({"cat": 0.4, "dog": 0.7, "fox": 0.7})
    assert merged["worst"] == pytest.approx(0.4) and merged["worst_class"] == "cat"
    assert mean_of(groups["B"])["pgd20"]["per_class"]["fox"] is None


def test_pictures_are_drawn(tmp_path):
    draw_classes({"one": metrics(0.5, None, 0.7)}, tmp_path / "a.png")
    draw_classes({"one": metrics(0.5, 0.6, 0.7), "two": metrics(0.4, 0.5, 0.6)}, tmp_path / "b.png", attacks=("pgd20",))
    draw_rows(group_rows({k: [metrics(0.5, 0.6, 0.7)] for k in "abcdefg"}), tmp_path / "c.png")
    for name in "abc":
        pixels = image.imread(tmp_path / f"{name}.png")
        assert pixels.shape[0] > 300 and pixels.shape[1] > 800 and pixels.std() > 0.05


def test_the_command(runs, capsys):
    to = runs / "out"
    main([f"A={runs}/r0", f"A={runs}/r1", f"B={runs}/r2", "--to", str(to)])
    assert "worst" in capsys.readouterr().out
    record = json.loads((to / "table.json").read_text())
    assert [row["label"] for row in record["rows"]] == ["A", "B"] and record["common"] == {"torch": "2"}
    assert [(r["label"], r["seed"]) for r in record["runs"]] == [("A", 0), ("A", 1), ("B", 2)]
    assert (to / "table.md").exists() and (to / "comparison.png").exists()
    (runs / "r2" / "metrics.json").write_text("{")
    for wrong, word in (("nowhere", "no finished run"), (f"{runs}/r2", "not a run's metrics.json")):
        with pytest.raises(SystemExit) as stop:
            main([wrong, "--to", str(runs / "other")])
        err = capsys.readouterr().err
        assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and word in err
        assert not (runs / "other").exists()
