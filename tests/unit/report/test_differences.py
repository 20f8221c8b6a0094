import re

import pytest
from helpers import seeds
from rich.console import Console

from fairat_lightning.report import differences, tables
from fairat_lightning.report.claim import points
from fairat_lightning.report.compare import rows
from fairat_lightning.report.groups import gather

EVIL = "B | <i>x</i>"


@pytest.fixture
def made(make_run):
    """Two seeds of A, of a row that wants escaping and of one that is A's baseline; of D another seed."""
    words = seeds(make_run, "A", (0.3, 0.32)) + seeds(make_run, "B", (0.52, 0.59)) + seeds(make_run, "C", (0.31, 0.3))
    words += [f"D={make_run('D7', (0.6, 0.33, 0.8), seed=7)}"]
    report = gather([word.replace("B=", f"{EVIL}=") for word in words])
    report.controls = {EVIL: ["A"], "A": ["C"], "D": ["C"]}
    return rows(report), report


def test_markdown_has_a_second_table_of_the_rows_with_a_control(made):
    found, report = made
    text = tables.markdown(found, report)
    above, _, below = text.partition("**Difference to the control**")
    assert "| C | 2 |" in above and not re.search(r"^\| C \|", below, re.M)
    lines = [line for line in below.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 3 * 3 and len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    cell = found[1]["against"][0]["pgd20"]["worst"]
    ends = f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}"
    worst = rf"| B \| \<i\>x\</i\> | A | PGD-20 | +24.5 ({ends}), p \< .001 | +24.5 ({ends}), p \< .001 |"
    assert any(line.startswith(worst) and line.endswith("| +22.0, +27.0 |") for line in lines)
    assert any(line.startswith("| D | C | PGD-20 | +2.5, not tested |") and line.endswith("|  |") for line in lines)
    assert (
        "- Paired test: the test images are drawn again" in below
        and "- Of rows with two seeds" in below
        and "say nothing about other trainings" in below
    )
    assert below.index("Paired test") < below.index("Findings and notes") < below.index("No row's worst class")


def test_nothing_is_added_without_a_control(made, make_run):
    report = gather(seeds(make_run, "E", (0.3, 0.4)))
    assert differences.markdown(rows(report), report) == [] and differences.html(rows(report), report) == ""
    assert differences.terminal(rows(report), report).row_count == 0
    assert "Findings" not in tables.markdown(rows(report), report)


def test_single_runs_have_no_column_of_seeds(make_run):
    report = gather(seeds(make_run, "A", (0.3,)) + seeds(make_run, "B", (0.5,)))
    found = rows(report)
    head = next(line for line in differences.markdown(found, report) if "| control" in line)
    assert head == "|  | control | attack | worst class | worst 10 % | average |"
    assert "each seed" not in differences.html(found, report) and len(differences.terminal(found, report).columns) == 4


def test_welch_is_named_and_the_main_attack_stands_first(make_run):
    report = gather(seeds(make_run, "A", (0.3, 0.31, 0.35)) + seeds(make_run, "B", (0.5, 0.55, 0.52)))
    report.main = "cw20"
    lines = [line for line in differences.markdown(rows(report), report) if line.startswith("| B")]
    assert [line.split(" | ")[2] for line in lines] == ["CW-20", "PGD-20", "clean"] and all("(Welch)" in line for line in lines)
    assert "(Welch)" not in "".join(differences.markdown(*two(make_run)))


def two(make_run):
    report = gather(seeds(make_run, "X", (0.3, 0.31)) + seeds(make_run, "Y", (0.5, 0.55)))
    return rows(report), report


@pytest.mark.parametrize("p, text", [(0.0004, "p < .001"), (0.0312, "p = .031"), (0.456, "p = .46"), (1.0, "p = 1.00")])
def test_p_is_said_as_in_a_paper(p, text):
    assert differences._p({"p": p, "test": "paired"}) == text


def test_the_page_has_a_section_that_sorts_by_the_difference(made):
    found, report = made
    text = differences.html(found, report)
    assert text.count("<tr>") == 1 + 3 * 3 and "B | &lt;i&gt;x&lt;/i&gt;" in text and "<i>" not in text
    cell = found[1]["against"][0]["pgd20"]["worst"]
    assert f'<td data-value="{cell["difference"]}">{points(cell["difference"])}<span class="interval">' in text
    assert 'data-kind="number"><button type="button">worst 10 %' in text and "+22.0<br>+27.0" in text
    assert "What the tests can show" in text and "raises the weakest class" in text


def test_the_terminal_has_the_main_attack_within_80_columns(made):
    found, report = made
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(differences.terminal(found, report))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines()) and "PGD-20" in text and "CW-20" not in text
    for part in ("+24.5", "p < .001", "+22.0", "+27.0", "to A", "not tested"):
        assert part in text


def test_csv_is_that_of_the_rows_alone(made):
    assert "against" not in tables.comma_separated(made[0])
