from helpers import old_metrics, seeds
from rich.console import Console

from fairat_lightning.report.compare import rows
from fairat_lightning.report.groups import gather
from fairat_lightning.report.terminal import Comparison, class_table, row_table


def text_of(table, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_class_table_says_every_figure():
    text = text_of(class_table({"base": old_metrics(0.25, 0.5, None), "fair": old_metrics(0.4, 0.45, 0.5)}), 100)
    for word in ("cat", "25.0", "37.5", "–", "worst class", "base", "fair", "PGD-20"):
        assert word in text
    many = old_metrics(*[k / 100 for k in range(100)], names=tuple(f"c{k}" for k in range(100)))
    text = text_of(class_table({"run": many}))
    assert "c0 " in text and "c50" not in text and "90 stronger classes" in text
    assert "mine" in text_of(class_table({"run": many}, ["pgd20"], {"pgd20": "mine"}))


def test_row_table_fits_80_columns(make_run):
    words = [f"FAAL, 4 more epochs, r {r}={make_run(f'{r}{s}', (0.6, 0.3, 0.8), seed=s)}" for r in "123" for s in (0, 1)]
    report = gather(words)
    text = text_of(row_table(rows(report), report))
    report.heads["pgd20"] = "APGD-CE + APGD-T (3 targets)"
    long = text_of(row_table(rows(report), report))
    assert long.count("FAAL, 4 more") == 3 and long.count("± 0.0") == 12, "a long head must leave the names their place"
    assert "56.7 ± 0.0" in text and text.count("± 0.0") == 12 and all(len(line) <= 80 for line in text.splitlines())


def test_a_comparison_of_several_seeds_shows_their_means(make_run):
    report = gather([*seeds(make_run, "A", (0.3, 0.4)), *seeds(make_run, "B", (0.45, 0.55))])
    shown = repr(Comparison(report, rows(report)))
    assert "35.0" in shown and "50.0" in shown and "45.0" not in shown
