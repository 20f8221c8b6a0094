import json

import pytest

from fairat_lightning.commands.report import main

FILES = {"index.html", "table.md", "table.csv", "table.tex", "table.json", "comparison.png", "figures"}


def refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and out == ""
    return err


@pytest.mark.pictures
def test_the_command_writes_everything(make_run, full_run, tmp_path, capsys):
    runs = [f"A={make_run(f'a{s}', (0.5, 0.3 + s / 50, 0.7), seed=s)}" for s in range(2)]
    to = tmp_path / "deep" / "out"
    main([*runs, f"B={full_run}", "--to", str(to)])
    out = capsys.readouterr().out
    assert out.startswith("FAILED CHECK B") and "worst class" in out and str(to / "index.html") in out.replace("\n", "")
    assert {path.name for path in to.iterdir()} == FILES
    names = {path.stem for path in (to / "figures").iterdir()}
    assert {path.suffix for path in (to / "figures").iterdir()} == {".png", ".pdf"} and "class_accuracies" in names
    record = json.loads((to / "table.json").read_text())
    assert [row["label"] for row in record["rows"]] == ["A", "B"] and record["common"] == {"versions": {"torch": "2"}}
    assert [(run["label"], run["seed"]) for run in record["runs"]] == [("A", 0), ("A", 1), ("B", 0)]
    assert record["rows"][0]["pgd20_worst"]["values"] == pytest.approx([0.3, 0.32]) and len(record["failed_checks"]) == 1
    assert "against" not in record["rows"][0] and record["rows"][1]["against"]["label"] == "A"
    assert (
        record["rows"][1]["against"]["pgd20"]["worst"]["test"] is None
        and "B has figures of 1 run and A of 2 runs" in record["tests"][0]
    )
    assert (
        "difference to the" in out and "not tested" in out and "B has figures of 1 run and A of 2 runs" in out.replace("\n", " ")
    )
    assert not list(tmp_path.rglob(".report.*"))


def test_the_same_report_twice_is_the_same_to_the_bit(make_run, tmp_path, capsys):
    run = f"A={make_run('a', (0.5, 0.3, 0.7))}"
    for name in ("one", "two"):
        main([run, "--to", str(tmp_path / name)])
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path.name


def test_one_row_and_many(make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"{k}={make_run(f'r{k}', (0.5, 0.3 + k / 100, 0.7))}" for k in range(6)]
    main(words[:1])
    assert "in its worst class, dog" in capsys.readouterr().out and (tmp_path / "report" / "index.html").exists()
    main(words)
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines()) and out.count("No significant difference") >= 1


def test_wrong_input_is_one_line_and_leaves_nothing(make_run, tmp_path, capsys, monkeypatch):
    good, bad, to = make_run("good", (0.5, 0.3, 0.7)), make_run("bad", (0.5, 0.3, 0.7)), tmp_path / "out"
    (bad / "metrics.json").write_text("{")
    for wrong, word in (("nowhere", "no finished run"), (bad, "not a run's metrics.json"), (f"X={good}", "same folder")):
        assert word in refused([str(good), str(wrong), "--to", str(to)], capsys)
    assert "is a file" in refused([str(good), "--to", str(good / "run.json")], capsys)

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fairat_lightning.report.write.page", broken)
    assert "No space left" in refused([str(good), "--to", str(to)], capsys)
    assert not to.exists() and not list(tmp_path.glob(".report.*"))
