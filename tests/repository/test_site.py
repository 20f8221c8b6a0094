"""The documentation site builds without a warning, its notebooks included, and explains every key of the configuration."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from helpers import ROOT, script


@pytest.fixture
def generated():
    return script("docs/generated.py")


def test_every_key_of_the_configuration_has_a_sentence(generated):
    page = generated.configuration()
    for path in (ROOT / "conf").rglob("*.yaml"):
        listed = generated.table(path)
        assert listed in page or path.parent.name == "conf", path  # balance and classifier are parts of the evaluation's
        unexplained = re.findall(r"^\| `([^`]+)` \|[^|]*\| +\|$", listed, re.M)
        assert path.parent.name == "experiment" or not unexplained, (path.name, unexplained)


def test_every_group_says_its_default(generated):
    page = generated.configuration()
    config = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())["defaults"]
    assert sum(isinstance(choice, dict) and "experiment" not in choice for choice in config) > 10
    for choice in (*config, {"suite": "quick"}):
        for group, option in choice.items() if isinstance(choice, dict) else ():
            if not group.startswith("override"):
                said = f"The default is `{group}={option}`." if option else "None is taken unless it is named."
                assert said in page.split(f"## {group}\n", 1)[1].split("###", 1)[0], group


def test_the_figures_of_a_method_are_those_of_the_records(generated):
    said = generated.facts("faal", ["faal.faal_at_from_pgd"])
    assert "FAAL-AT from PGD-AT (faal-night" in said and "45.51 / 31.1" in said
    assert "Not measured yet" in generated.ours("ham") or "budget=night" in generated.ours("ham")


def test_the_speed_of_a_processor_is_that_of_the_record(generated):
    record = json.loads((ROOT / "results" / "speed.json").read_text())
    shown = generated.speed(record)
    cells = re.findall(r"([\d.e+]+) \([\d.]+\)", shown)
    assert sorted(cells) == sorted(f"{cell['images_per_second']:.3g}" for cell in record["cells"])
    assert [f"{100 * model['error']:.0f} %" for model in record["models"]] == re.findall(r"\d+ %", shown)


@pytest.mark.slow
def test_the_site_builds_and_its_notebooks_run(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", "docs", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    for name in ("fairer", "audit", "own"):
        page = (tmp_path / "site" / "tutorials" / f"{name}.html").read_text()
        assert "worst class" in page and "average" in page  # what its cells have printed
        assert list((tmp_path / "site" / "_downloads").rglob(f"{name}.ipynb"))
    assert "FAILED gradients can be followed" in (tmp_path / "site" / "tutorials" / "audit.html").read_text()
