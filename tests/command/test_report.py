import json
import shutil
from html import escape

import pytest
from helpers import ROOT, judge

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
    assert "against" not in record["rows"][0] and record["rows"][1]["against"][0]["label"] == "A"
    assert record["rows"][1]["against"][0]["pgd20"]["worst"]["test"] == "paired"
    said = "B and A are compared in the one seed that both have, 0."
    assert said in record["tests"] and "difference to the" in out and said in out.replace("\n", " ")
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
    assert all(len(line) <= 80 for line in out.splitlines()) and out.count("No difference could be shown") >= 1


def test_the_output_ends_in_one_finding_and_the_page(make_run, tmp_path, capsys):
    """Once, after everything else, and the same on the page, in the table and in the record."""
    to = tmp_path / "out"
    main([f"A={make_run('a', (0.5, 0.3, 0.7))}", f"B={make_run('b', (0.5, 0.6, 0.7))}", "--to", str(to)])
    *lines, page = capsys.readouterr().out.splitlines()
    finding = json.loads((to / "table.json").read_text())["findings"][0]
    assert page.split() == ["page", str(to / "index.html")] and finding.startswith("B raises the weakest class (dog with A) from")
    end = " ".join(" ".join(lines).split()).partition("each as PNG and PDF)")[2].strip()
    assert end == finding and " ".join(" ".join(lines).split()).count("under PGD-20 (") == 1
    assert f'<p class="lead">{escape(finding)}</p>' in (to / "index.html").read_text()
    assert "- B raises the weakest class" in (to / "table.md").read_text()


def test_wrong_input_is_one_line_and_leaves_nothing(make_run, tmp_path, capsys, monkeypatch):
    good, bad, to = make_run("good", (0.5, 0.3, 0.7)), make_run("bad", (0.5, 0.3, 0.7)), tmp_path / "out"
    (bad / "metrics.json").write_text("{")
    for wrong, word in (("nowhere", "no finished run"), (bad, "not a run's metrics.json"), (f"X={good}", "same folder")):
        assert word in refused([str(good), str(wrong), "--to", str(to)], capsys)
    assert "is a file" in refused([str(good), "--to", str(good / "run.json")], capsys)
    assert "--to /proc/out: nothing can be written into /proc" in refused([str(good), "--to", "/proc/out"], capsys)

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fairat_lightning.report.write.page", broken)
    assert "No space left" in refused([str(good), "--to", str(to)], capsys)
    assert not to.exists() and not list(tmp_path.glob(".report.*"))


def test_a_folder_with_runs_stands_for_the_finished_ones(make_run, tmp_path, capsys, monkeypatch):
    """A sweep's folder, its runs with Hydra's own file among them, and a run's evaluations; what has begun is said."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "begun"):
        make_run(f"sweep/{name}", (0.5, 0.3, 0.7), method={"_target_": f"m.{name.title()}"})
    (tmp_path / "sweep" / "multirun.yaml").write_text("hydra: {}")
    (tmp_path / "sweep" / "begun" / "metrics.json").unlink()
    for name in ("one", "two"):
        judge(tmp_path / "sweep" / "a" / "evaluation" / name, {"pgd20": (0.5, 0.3, 0.7)})
        (tmp_path / "sweep" / "a" / "evaluation" / name / "run.json").write_text('{"suite": "quick"}')

    def labels(*words):
        main([*words, "--to", "out"])
        record = json.loads((tmp_path / "out" / "table.json").read_text())
        return [row["label"] for row in record["rows"]], "\n".join(record["notes"])

    found, notes = labels("sweep")
    assert found == ["A", "B"] and "sweep/begun is not finished, and is left out." in notes
    assert labels("sweep/a", "sweep/b", "sweep/multirun.yaml")[0] == ["A", "B"]
    assert labels("sweep/a/evaluation")[0] == ["A, one", "A, two"]
    for seed in range(2):
        make_run(f"seeds/{seed}", (0.5, 0.3, 0.7), seed=seed)
    assert labels("X=seeds", "sweep/b")[0] == ["X", "B"]
    capsys.readouterr()
    (tmp_path / "waiting").mkdir()
    (tmp_path / "sweep" / "begun").rename(tmp_path / "waiting" / "begun")
    for word, why in (
        ("X=sweep", "several configurations"),
        ("sweep/multirun.yaml", "name the folders beside it"),
        ("waiting/begun", "continue it with: python -m fairat_lightning seed=0"),
        ("waiting", "not finished yet: begun"),
        ("seeds/0/run.json", "it is a file"),
    ):
        assert why in refused([word], capsys)
    assert "names the same folder" in refused(["sweep", "sweep/a"], capsys)


def folders():
    """What figures are kept in, each in its own way: a run, each of its evaluations, an export, what has no configuration."""
    old = ROOT / "tests" / "runs" / "version_0_1"
    return [old / "finished", *sorted((old / "finished" / "evaluation").iterdir()), old / "exported"]


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_every_folder_with_figures_is_read(folder, tmp_path, capsys):
    """Alone and beside another; and an audit's folder, or a result of Python, which lie below no run."""
    main([str(folder), "--to", str(tmp_path / "one")])
    capsys.readouterr()
    record = json.loads((tmp_path / "one" / "table.json").read_text())
    assert [row["label"] for row in record["rows"]] == ["FAAL"]
    if folder.parent.name == "evaluation":
        alone = shutil.copytree(folder, tmp_path / "runs" / "audit-net" / "evaluation" / folder.name)
        saved = shutil.copytree(folder, tmp_path / "saved")
        for place, label in ((alone, "net"), (saved, "saved")):
            main([str(place), f"other={folder}", "--to", str(tmp_path / "two")])
            capsys.readouterr()
            record = json.loads((tmp_path / "two" / "table.json").read_text())
            assert [row["label"] for row in record["rows"]] == [label, "other"]


def test_a_sweep_shows_every_eps(make_run, tmp_path, capsys):
    """On the terminal, on the page, in each table: eight, not the first three or five."""
    place, eps = make_run("run", (0.5, 0.3, 0.7)) / "evaluation" / "sweep", [round(k / 50, 4) for k in range(8)]
    keys = [f"pgd20@{value:.4g}" for value in eps]
    judge(place, {key: (0.9 - value, 0.8 - value, 0.9) for key, value in zip(keys, eps, strict=True)})
    facts = {"suite": "sweep", "threat": {"norm": "linf", "eps": 0.04}, "headline": [], "curve": {"eps": eps, "keys": keys}}
    (place / "run.json").write_text(json.dumps(facts | {"titles": {key: f"eps {key[6:]}" for key in keys}}))
    for folder in (place, tmp_path / "run"):
        main([str(folder), "--to", str(tmp_path / "out")])
        out = capsys.readouterr().out.splitlines()
        assert "PGD-20, eps 0.02" not in " ".join(out)  # the class table keeps to the eps of the threat model
        assert [line.split()[:2] for line in out if "/" in line][1:9] == [
            [f"{v:.4g}", f"{100 * (0.9 - 2 * v / 3 - 0.1 / 3):.1f}"] for v in eps
        ]
        page, text = ((tmp_path / "out" / name).read_text() for name in ("index.html", "table.md"))
        record = json.loads((tmp_path / "out" / "table.json").read_text())
        assert set(keys) <= set(next(iter(record["classes"].values())))
        assert all(f"eps<br>{value:.4g}</button>" in page and f"eps {value:.4g} |" in text for value in eps)
        assert all(f"{key}_worst" in (tmp_path / "out" / "table.csv").read_text() for key in keys)


def test_a_long_head_is_short_and_explained(make_run, tmp_path, capsys):
    long, run = "APGD-CE + APGD-T (3 targets), 3 steps", make_run("run", (0.5, 0.3, 0.7))
    judge(run / "evaluation" / "apgd", {"apgd": (0.4, 0.2, 0.6)})
    (run / "evaluation" / "apgd" / "run.json").write_text(json.dumps({"titles": {"apgd": long}, "headline": ["apgd"]}))
    main([str(run), "--to", str(tmp_path / "out")])
    page, text, tex = ((tmp_path / "out" / name).read_text() for name in ("index.html", "table.md", "table.tex"))
    assert f'<abbr title="{long}">APGD-CE+T*</abbr><br>worst' in page and f"* APGD-CE+T: {long}." in page
    head, below = text.splitlines()[0], text.splitlines()[4]
    assert r"APGD-CE+T\* worst" in head and "targets" not in head and f"APGD-CE+T: {long}." in below
    assert "APGD-CE+T* worst" in tex and f"APGD-CE+T: {long}." in tex and f"APGD-CE+T: {long}." in capsys.readouterr().out


def test_where_a_file_cannot_be_written_the_folder_stays_as_it_was(make_run, tmp_path, capsys):
    a, b = make_run("a", (0.5, 0.3, 0.7)), make_run("b", (0.6, 0.5, 0.7))
    for name in ("figures", "table.md"):
        to = tmp_path / name.partition(".")[0] / "report"
        to.mkdir(parents=True)
        (to / "figures").write_text("mine") if name == "figures" else (to / "table.md").mkdir()
        before = sorted(path.name for path in to.iterdir())
        assert name in refused([f"A={a}", f"B={b}", "--to", str(to)], capsys)
        assert sorted(path.name for path in to.iterdir()) == before


def test_figures_of_an_earlier_report_go_and_other_files_stay(make_run, tmp_path):
    words = [f"{name}={make_run(name, (0.5, worst, 0.7))}" for name, worst in (("a", 0.3), ("b", 0.4), ("c", 0.5))]
    to, alone = tmp_path / "report", tmp_path / "alone"
    main([*words, "--to", str(to)])
    (to / "figures" / "mine.png").write_text("mine")
    main([words[0], words[2], "--to", str(to)])
    main([words[0], words[2], "--to", str(alone)])
    names = {path.name for path in (to / "figures").iterdir()}
    assert names == {path.name for path in (alone / "figures").iterdir()} | {"mine.png"}
