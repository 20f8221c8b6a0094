"""The documentation site builds without a warning, its notebooks included."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


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
