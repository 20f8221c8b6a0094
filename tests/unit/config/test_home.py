import shutil
from pathlib import Path

import pytest
import yaml
from helpers import FOLDER, SMALL, call, other, photos, refused
from hydra.core.override_parser.overrides_parser import OverridesParser

from fairat_lightning.config.home import expanded, expanded_plainly

HOME = "/home/Jo O'Brien (x), [y]={z}"


@pytest.fixture
def home(monkeypatch):
    monkeypatch.setenv("HOME", HOME)


def read(word: str):
    override = OverridesParser.create().parse_override(word)
    if override.is_sweep_override():
        return [OverridesParser.create().parse_override(f"a={one}").value() for one in override.sweep_string_iterator()]
    return override.value()


@pytest.mark.parametrize(
    "word,value",
    [
        ("data.root=~/x", f"{HOME}/x"),
        ("data.root=~", HOME),
        ("hydra.run.dir=~/my runs/${seed}/a", f"{HOME}/my runs/${{seed}}/a"),
        ("+data.root=~/x", f"{HOME}/x"),
        ("to=~/a\\,b\\(c\\)", f"{HOME}/a,b(c)"),
        ("to=~/a:b", f"{HOME}/a:b"),
        ("init_from=~/a, ~/b,c", [f"{HOME}/a", f"{HOME}/b", "c"]),
        ("allow=[~/a, ~/b,3]", [f"{HOME}/a", f"{HOME}/b", 3]),
        ("+a={b:~/x,c:4}", {"b": f"{HOME}/x", "c": 4}),
        ("hydra.run.dir='~/x'", f"{HOME}/x"),
        ('hydra.sweep.dir="~/x"', f"{HOME}/x"),
        ("data.root='~/x'", "~/x"),  # as it is written: its readers expand it, and runs have their names from it
        ("data.root=a/b~c~", "a/b~c~"),
        ("init_from=nobody-of-this-name~/x", "nobody-of-this-name~/x"),
        ("data.root=/a/b", "/a/b"),
    ],
)
def test_hydra_reads_the_whole_path(home, word, value):
    once = expanded([word])
    assert read(*once) == value
    assert expanded(once) == once


def test_a_choice_of_a_sweep(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jo")  # Hydra gives the values of a choice on without their quotes
    assert read(*expanded(["init_from=choice(~/a,b)"])) == ["/home/jo/a", "b"]


def test_other_words_stay_as_they_are(home):
    words = ["~logger", "~method=faal", "-m", "seed=0", "a='b~c'", "--help", "x", "study=a~b"]
    assert expanded(words) == words


def test_words_that_are_none_of_hydras(home):
    assert expanded(["storage=sqlite:///~/x.db", "--config-dir=~/c"]) == [
        f"storage=sqlite:///{HOME}/x.db",
        f"--config-dir={HOME}/c",
    ]
    words = ["~/run", "ours=~/run", "--to=~/x", "a~b", "--sort", "x=a~b"]
    assert expanded_plainly(words) == [f"{HOME}/run", f"ours={HOME}/run", f"--to={HOME}/x", *words[3:]]


@pytest.mark.parametrize(
    "word", ["data.root=~nobody-of-this-name/x", "hydra.run.dir=~nobody-of-this-name", "init_from=[a,~nobody-of-this-name]"]
)
def test_the_home_of_nobody_is_refused_in_one_line(monkeypatch, capsys, tmp_path, word):
    refused(*other(monkeypatch, capsys, tmp_path, "train", word), "this machine has no user nobody-of-this-name")


def test_training_in_the_home_is_the_run_that_its_whole_paths_name(tmp_path, monkeypatch, capsys):
    """The configuration holds what a shell would have made of it, the record what was typed."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    photos(tmp_path / "home")
    words = [word for word in FOLDER if not word.startswith(("hydra", "data.root"))]
    typed = "data.root=~/photos"
    assert call(monkeypatch, capsys, tmp_path, *words, typed, "hydra.run.dir=~/run")[0] == 0
    place = tmp_path / "home" / "run"
    assert yaml.safe_load((place / "config.yaml").read_text())["data"]["root"] == str(tmp_path / "home" / "photos")
    assert f"'{typed}'" in (place / "run.json").read_text()
    code, out, err = call(monkeypatch, capsys, tmp_path, *words, f"data.root={tmp_path}/home/photos", f"hydra.run.dir={place}")
    assert (code, err) == (0, "") and "This run is finished" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_every_path_of_every_command(trained, tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    shutil.copytree(trained()[0], home / "run")
    monkeypatch.setenv("HOME", str(home))
    (home / "here").mkdir()

    def ask(name: str, *words: str) -> None:
        code, err = other(monkeypatch, capsys, tmp_path, name, *words)
        assert (code, err) == (0, ""), (name, words, err)

    ask("evaluate", "checkpoint=~/run", "samples_per_class=2", "to=~/here")
    ask("export", "checkpoint=~/run", "to=~/exported")
    ask("balance", "checkpoint=~/run", "to=~/balanced.pt", "head.strengths=[1.0]")
    ask("report", "ours=~/run", "--to=~/report")
    found = {path.name for path in home.iterdir()}
    assert found >= {"here", "exported", "balanced.pt", "report"} and list((home / "here").rglob("metrics.json"))
    for key in ("runs", "to"):
        code, err = other(monkeypatch, capsys, tmp_path, "reproduce", "table=faal", f"{key}=~/run/config.yaml")
        refused(code, err, f"{home}/run/config.yaml is a file: set {key}=FOLDER to a folder")


@pytest.mark.slow
def test_a_sweep_a_search_and_a_teacher_in_the_home(trained, tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    shutil.copytree(trained()[0], home / "run")
    monkeypatch.setenv("HOME", str(home))
    words = [*SMALL, "trainer.max_epochs=1"]
    assert call(monkeypatch, capsys, tmp_path, "-m", *words, "init_from=~/run", "seed=0,1", "hydra.sweep.dir=~/sweep")[0] == 0
    assert len(list((home / "sweep").glob("*/metrics.json"))) == 2
    code, _, err = call(monkeypatch, capsys, tmp_path, *words, "method=fair_ard", "method.teacher=~/run", "hydra.run.dir='~/ard'")
    assert (code, err) == (0, "") and (home / "ard" / "metrics.json").exists()
    line = ["optim.lr=choice(0.1,0.2)", "trials=1", "storage=sqlite:///~/study/s.db"]
    assert call(monkeypatch, capsys, tmp_path, *words, *line, command="search")[0] == 0
    assert (home / "study" / "s.db").exists() and {path.name for path in tmp_path.iterdir()} == {"home", "runs"}
    assert not Path(tmp_path / "~").exists()
