import csv
import io
import json

import pytest
from helpers import judge, old_metrics

from fairat_lightning.report import tables
from fairat_lightning.report.compare import rows
from fairat_lightning.report.groups import gather
from fairat_lightning.report.page import page

AWKWARD = r"50 % of_a|b & c$ #1 <i>{x}^~\*"


@pytest.fixture
def awkward(make_run):
    report = gather([f"{AWKWARD}={make_run('a', (0.5, 0.3, 0.7))}", f"B={make_run('b', (0.6, 0.6, 0.7))}"])
    return rows(report), report


def test_markdown_has_mean_deviation_interval_and_bold(awkward, make_run):
    words = [f"A={make_run(f'x{s}', (0.6, w, 0.8), seed=s)}" for s, w in enumerate((0.3, 0.31, 0.33))]
    words += [f"C={make_run(f'y{s}', (0.6, w, 0.8), seed=s)}" for s, w in enumerate((0.5, 0.52, 0.51))]
    report = gather(words)
    text = tables.markdown(rows(report), report)
    assert "| C | 3 | " in text and "| **51.0 ± 1.0** [48.5, 53.5] |" in text and "31.3 ± 1.5 [27.5, 35.1]" in text
    assert "better than every other row at p &lt; .05" in text.replace("\\<", "&lt;") and "- C raises the weakest class" in text


def test_markdown_escapes_what_would_break_a_table(awkward):
    text = tables.markdown(*awkward)
    (line,) = [line for line in text.splitlines() if line.startswith("| 50")]
    head = text.splitlines()[0]
    assert line.replace("\\|", "").count("|") == head.count("|")
    assert r"50 % of\_a\|b &amp; c\$ \#1 \<i\>\{x\}^\~\\\*" in line


def test_latex_escapes_every_special_character(awkward):
    text = tables.latex(*awkward)
    (line,) = [line for line in text.splitlines() if line.startswith("50")]
    expected = r"50 \% of\_a\textbar{}b \& c\$ \#1 \textless{}i\textgreater{}\{x\}\textasciicircum{}\textasciitilde{}"
    assert line.startswith(expected + r"\textbackslash{}* & 1 & ") and line.endswith(r" \\")
    assert line.replace(r"\&", "").count("&") == 7  # eight columns
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1 and r"\textbf{60.0}" in text


def test_csv_reads_back_as_it_was(awkward):
    found, _ = awkward
    first, second = csv.DictReader(io.StringIO(tables.comma_separated(found)))
    assert first["label"] == AWKWARD and float(first["pgd20_worst"]) == pytest.approx(0.3)
    assert float(second["pgd20_worst_low"]) == found[1]["pgd20_worst"]["low"] and float(second["pgd20_rho"]) > 1
    assert float(first["pgd20_gap"]) == pytest.approx(0.4) and "pgd20_worst_std" not in first


def test_a_training_of_seconds_is_no_training_of_nothing():
    found = [tables.minutes({"train_seconds": {"mean": seconds}}) for seconds in (2.4, 5.9, 6, 738)]
    assert found == ["0.04", "0.10", "0.1", "12.3"] and tables.minutes({}) == "–"


def test_missing_figures_are_dashes_in_text_and_empty_in_csv(make_run, tmp_path):
    (tmp_path / "old").mkdir()
    record = {"clean": old_metrics(0.5, None, 0.7)["clean"]}
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(record))
    report = gather([f"new={make_run('a', (0.5, 0.3, 0.7))}", str(tmp_path / "old")])
    found = rows(report)
    assert "| old | 1 | 60.0 | – | – | – | – |" in tables.markdown(found, report)
    assert list(csv.DictReader(io.StringIO(tables.comma_separated(found))))[1]["pgd20_worst"] == ""
    assert "old & 1 & 60.0 & – &" in tables.latex(found, report)


def test_another_eps_than_in_training_stands_in_a_second_table(make_run):
    """In Markdown and LaTeX and on the page, with the rows that have met it alone."""
    folder = make_run("a", (0.5, 0.3, 0.7))
    judge(folder / "evaluation" / "far", {"pgd20": (0.4, 0.1, 0.6)})
    facts = {"suite": "quick", "threat": {"norm": "linf", "eps": 0.1}}
    (folder / "evaluation" / "far" / "run.json").write_text(json.dumps(facts))
    report = gather([f"A={folder}", f"B={make_run('b', (0.6, 0.6, 0.7))}"])
    found = rows(report)
    text, tex = tables.markdown(found, report), tables.latex(found, report)
    main, second = text.split(f"**{tables.OTHERS}**")
    second = second.partition("**Difference")[0]
    assert "eps 0.1" not in main and "| PGD-20, eps 0.1 average | PGD-20, eps 0.1 worst |" in second
    assert [line[:5] for line in second.splitlines() if line.startswith("| ")][1:] == ["| A |"]
    assert tex.count(r"\begin{tabular}") == 2 and tex.count("B & 1 &") == 1
    shown = page(report, found, [])
    assert shown.index('id="rows-table"') < shown.index(tables.OTHERS) < shown.index('id="others-table"')
    alone = gather([f"B={folder.parent / 'b'}"])
    assert tables.OTHERS not in tables.markdown(rows(alone), alone) + page(alone, rows(alone), [])


def test_failed_checks_stand_first(full_run):
    report = gather([str(full_run)])
    found = rows(report)
    assert tables.markdown(found, report).startswith("> **FAILED CHECK** FairAT (")
    assert tables.latex(found, report).startswith("% FAILED CHECK FairAT (")
    assert tables.failures(report)[0].endswith("sweep: a large eps breaks all: 12 % are left")


def test_what_records_share_is_said_once():
    both = tables.shared([{"label": "A", "torch": "2", "seed": 0}, {"label": "B", "torch": "2", "seed": 1}])
    assert both == {"common": {"torch": "2"}, "runs": [{"label": "A", "seed": 0}, {"label": "B", "seed": 1}]}
