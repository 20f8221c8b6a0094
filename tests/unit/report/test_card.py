"""The model card of an exported network, read back: what `standalone.model_card` writes, and cards of before."""

import json
import shutil

import pytest
import yaml
from helpers import ROOT, judge

from fairat_lightning.report.card import is_card, read_card
from fairat_lightning.report.gallery import pictures
from fairat_lightning.report.groups import gather
from fairat_lightning.report.runs import read_run
from fairat_lightning.report.significance import compared
from fairat_lightning.standalone import model_card
from fairat_lightning.standalone.card_records import read_records

OLD = ROOT / "tests" / "runs" / "version_0_1"
ODD = ("_odd_ | 'one\"", "a*", "**average**")
CHECK = {"name": "a | b", "passed": False, "detail": "12 % *left*"}


def exported(run, to, names):
    """A folder with the card that an export of `run` writes."""
    (run / "checkpoints").mkdir(exist_ok=True)
    records = read_records(run, run / "checkpoints" / "best.ckpt", "")
    facts = model_card.Facts("net", "a.net", 5, "digits", names, 1, 8, "torch")
    to.mkdir()
    (to / "README.md").write_text(model_card.write(facts, records))
    return to


def test_what_was_written_is_read(make_run, tmp_path):
    """Classes whose names are Markdown, one attack under two threat models, a sweep, a failed check, seed and seconds."""
    run = make_run("run", (0.5, 0.3, 0.7), names=ODD)
    (run / "run.json").write_text(json.dumps({"seed": 3, "command": "python x", "seconds": {"train": 60.0, "train_cpu": 90.0}}))
    far = {"titles": {"pgd20": "PGD-20"}, "headline": ["pgd20"], "threat": {"norm": "linf", "eps": 0.1}, "checks": [CHECK]}
    sweep = {
        "titles": {f"pgd20@{e}": f"eps {e}" for e in (0, 0.03137, 0.1)},
        "headline": [],
        "threat": {"norm": "linf", "eps": 0.1},
    }
    sweep["curve"] = {"eps": [0, 8 / 255, 0.1 + 1e-16], "keys": list(sweep["titles"])}
    l2 = {"titles": {"pgd20_l2": "PGD-20, L2 0.5"}, "threat": {"norm": "linf", "eps": 8 / 255}}
    l2["threats"] = {"pgd20_l2": {"norm": "l2", "eps": 0.5}}
    more = {**l2, "threat": far["threat"]}
    fog = {"titles": {"fog": "fog", "corruptions": "corruptions"}, "threat": {"norm": "linf", "eps": 8 / 255}}
    tests = [("far", far, ["pgd20"]), ("sweep", sweep, sweep["titles"]), ("fog", fog, fog["titles"])]
    for name, facts, keys in [*tests, ("l2", l2, ["pgd20_l2"]), ("more", more, ["pgd20_l2"])]:
        judge(run / "evaluation" / name, dict.fromkeys(keys, (0.4, 0.1, 0.6)), names=ODD)
        (run / "evaluation" / name / "run.json").write_text(json.dumps(facts | {"suite": name, "notes": [f"a *note* of {name}"]}))
        (run / "evaluation" / name / "config.yaml").write_text("{}")
        (run / "evaluation" / name / "samples.jsonl").unlink()
    to = exported(run, tmp_path / "card", ODD)
    assert is_card(to) and not is_card(run)
    one, whole = read_run(to), read_run(run)
    assert one.summaries.keys() == whole.summaries.keys() and one.threats == whole.threats and one.exported
    for key, summary in whole.summaries.items():
        mine = one.summaries[key]
        assert mine["worst_class"] == summary["worst_class"] and mine["images"] == 300
        assert mine["per_class"] == pytest.approx(summary["per_class"], abs=6e-4)
        for name, ends in summary["interval"].items():
            assert mine["interval"][name] == pytest.approx(ends, abs=6e-4)
    assert one.curves == whole.curves == {"linf": {0.0: "pgd20@0", 0.03137: "pgd20@0.03137", 0.1: "pgd20@0.1"}}
    assert gather([str(run), str(to)]).swept == ["pgd20@0", "pgd20@0.03137", "pgd20@0.1"]
    assert one.checks == [{**CHECK, "suite": ""}] and "Evaluation far: a *note* of far" in one.notes
    assert one.facts["seed"] == 3 and one.facts["seconds"] == {"train": 60.0, "train_cpu": 90.0}
    assert gather([str(to)]).titles["pgd20@linf_0.1"] == "PGD-20, eps 0.1"


def test_a_card_of_version_0_1_is_read():
    card, found = read_card(OLD / "exported"), read_run(OLD / "exported")
    kept = read_run(OLD / "finished")
    assert found.summaries.keys() == kept.summaries.keys() and "apgd" in card.headline and "fgsm" not in card.headline
    assert [check["passed"] for check in card.checks].count(False) == 1
    assert found.threats["pgd20_l2"] == kept.threats["pgd20_l2"] == ("l2", 0.8)
    assert gather([str(OLD / "exported")]).groups[0].label == "FAAL"


def test_a_network_of_the_package_is_known_by_its_name():
    report = gather(["pretrained:cifar10_faal_s0", "A=pretrained:cifar10_pgd_at_s0"])
    assert [group.label for group in report.groups] == ["FAAL", "A"]
    assert report.groups[0].values("pgd20", "worst") == [0.248] and report.groups[0].runs[0].facts["hardware"]["cores"] == 2
    assert "whiskers" not in pictures(report)[0].caption
    assert compared(*report.groups, "pgd20") == "FAAL and A hold no predictions of single images for it"


@pytest.mark.parametrize(
    "old, new, why",
    [
        ("|", "", "no figures"),
        ("| 0.0 ", "| ? ", "could not convert"),
        ("**average**", "average", "cannot be read"),
        ("```yaml", "```yaml\na: [", "cannot be read"),
        ("| **25.0** ", "| **250.0** ", r"not in \[0, 1\]"),
    ],
)
def test_a_damaged_card_is_one_line_with_its_path(tmp_path, old, new, why):
    text = (OLD / "exported" / "README.md").read_text()
    assert old in text
    lines = (
        text.replace(old, new) if "klass" not in new else "".join(x + "\n" for x in text.splitlines() if not x.startswith("| "))
    )
    (tmp_path / "README.md").write_text(lines)
    with pytest.raises(ValueError, match=why) as caught:
        read_run(tmp_path)
    assert "README.md" in str(caught.value) and "\n" not in str(caught.value)


def test_a_readme_of_something_else_is_no_card(tmp_path):
    (tmp_path / "README.md").write_text("# My model\n")
    with pytest.raises(ValueError, match="holds no finished run"):
        read_run(tmp_path)
    shutil.copy(OLD / "finished" / "metrics.json", tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({}))
    assert not read_run(tmp_path).exported
