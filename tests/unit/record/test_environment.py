"""Which command installs an extra, and that no message names a package that is on no index."""

import shlex
import sys
import tomllib

import pytest
from helpers import ROOT, SMALL, call, refused

from fairat_lightning.commands.errors import reworded
from fairat_lightning.record import environment
from fairat_lightning.record.environment import install

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_a_checkout_installs_itself_with_the_extra(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert shlex.split(install("timm")) == ["pip", "install", "-e", f"{ROOT}[timm]"]
    monkeypatch.chdir(ROOT)
    assert install("timm") == 'pip install -e ".[timm]"'


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_installed_package_names_the_packages_of_the_extra(monkeypatch, tmp_path, extra):
    monkeypatch.setattr(environment, "ROOT", tmp_path)  # as site-packages, which has no pyproject.toml
    lines = [f"{package}; extra == '{name}'" for name, packages in EXTRAS.items() for package in packages]
    monkeypatch.setattr(environment, "requires", lambda name: ["torch>=2.11", *lines])
    assert shlex.split(install(extra)) == ["pip", "install", *EXTRAS[extra]]
    (tmp_path / "pyproject.toml").write_text('name = "of-somebody-else"')
    assert shlex.split(install(extra)) == ["pip", "install", *EXTRAS[extra]]


def test_a_copy_without_metadata_says_where_they_stand(monkeypatch, tmp_path):
    def unknown(name):
        raise environment.PackageNotFoundError(name)

    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "requires", unknown)
    assert install("timm") == "install the packages of the extra timm in its pyproject.toml"


def test_no_message_names_a_package_that_is_on_no_index():
    places = [
        path for folder in ("fairat_lightning", "conf") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")
    ]
    assert not [path for path in places if "pip install fairat-lightning" in path.read_text().replace("'", "")]


def test_a_logger_and_a_launcher_whose_package_is_missing(monkeypatch, capsys, tmp_path):
    missing = "Neither `tensorboard` nor `tensorboardX` is available. Try `pip install`ing either."

    def absent(self, *arguments, **options):
        raise ModuleNotFoundError(missing)

    monkeypatch.setattr("lightning.pytorch.loggers.TensorBoardLogger.__init__", absent)
    code, _, err = call(monkeypatch, capsys, tmp_path, *SMALL, "logger=tensorboard")
    refused(code, err, f"TensorBoard is not installed: {install('tensorboard')}")
    text = "In 'x': Could not find 'hydra/launcher/{}'\n\nAvailable options in 'hydra/launcher':\n\tbasic{}\nConfig search path"
    for launcher in ("joblib", "submitit_slurm"):
        assert reworded(text.format(launcher, "")).endswith(f"is not installed: {install('sweeps')}")
    assert reworded(text.format("joblibb", "\n\tjoblib")).count("choose one of basic, joblib") == 1
    monkeypatch.setitem(sys.modules, "optuna", None)
    words = (*SMALL, "optim.lr=interval(0.1,0.2)")
    code, _, err = call(monkeypatch, capsys, tmp_path, *words, command="search")
    refused(code, err, f"Optuna: {install('sweeps')}")
