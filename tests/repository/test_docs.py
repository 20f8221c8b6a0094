"""What the README and the pages of the site say runs."""

import importlib.util
import json
import re
import shlex
import shutil
import sys
import types
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
import yaml
from helpers import options, script

from fairat_lightning.commands.tables import recipes
from fairat_lightning.config.compose import CONF, resolved
from fairat_lightning.config.compose import compose_classifier as evaluation

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "results" / "README.md"])
PAGES = [page for page in PAGES if page.name != "configuration.md" and "_build" not in page.parts]  # written by the build
COMMANDED = [page for page in PAGES if page.parent.name in ("docs", "methods", "tutorials") or page.name == "README.md"]
ONE_LINE = "\n".join(re.sub(r"\\\n\s*", "", page.read_text()) for page in COMMANDED)
COMMANDS = sorted(
    {
        line.split("#")[0].strip()
        for line in ONE_LINE.splitlines()
        if line.startswith("    python -m fairat_lightning ") and "..." not in line
    }
)


def test_the_python_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["fair"].worst["pgd20"] > names["base"].worst["pgd20"] and len(names["fair"].classes) == 10


def test_the_examples_of_your_own_parts_run(tmp_path, monkeypatch):
    """The augmentation in training, and the method in a `Trainer` of one's own, whose batches are made smaller here."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own.md").read_text(), re.S)
    (augmentation,) = (block for block in blocks if "mypackage.py" in block)
    (trainer,) = (block for block in blocks if "lightning.Trainer" in block)
    names: dict = {}
    exec(compile(augmentation, "mypackage.py", "exec"), names)
    x, draws = torch.rand(40, 3, 6, 6), [torch.Generator().manual_seed(0) for _ in range(2)]
    first, second = (names["blur"](x, generator=draw) for draw in draws)
    assert torch.equal(first, second) and first.shape == x.shape
    assert 0 < (first == x).flatten(1).all(1).sum() < 40
    monkeypatch.chdir(tmp_path)
    exec(compile(trainer, "own.md", "exec"), names)
    assert names["module"].trainer.current_epoch == 2


def test_the_readme_is_short():
    assert len(README.encode()) <= 8192


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(compose, command):
    words = shlex.split(command)[3:]
    if "--help" in words:
        return
    sweep = "-m" in words
    words = [word.split(",")[0] if sweep else word for word in words if word != "-m"]
    assert resolved(compose(*words))["method"]


@pytest.mark.parametrize("line", re.findall(r"^    python -m fairat_lightning\.evaluate ([^#\n]*)", ONE_LINE, re.M))
def test_every_evaluation_composes(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    (checkpoint,) = re.findall(r"checkpoint=(\S+)", line)
    if not checkpoint.startswith("pretrained:"):
        (Path(checkpoint) / "checkpoints").mkdir(parents=True)  # RUN, which only a training makes
        (Path(checkpoint) / "checkpoints" / "best.ckpt").touch()
        shutil.copy(ROOT / "tests" / "runs" / "faal-night" / "pgd_at-s0" / "config.yaml", Path(checkpoint))
    assert evaluation("evaluate", shlex.split(line)).suite["_target_"]


@pytest.mark.parametrize("line", re.findall(r"^    python -m fairat_lightning\.reproduce ([^#\n]*)", ONE_LINE, re.M))
def test_every_table_is_there(line):
    plan = recipes.parse(shlex.split(line))
    assert plan.wanted == set(plan.rows)


def test_there_are_commands_to_test():
    assert len(COMMANDS) >= 20


PLACES = [
    (ROOT / place, kind)
    for place in ("fairat_lightning", "conf", "tests", "studies", "docs")
    for kind in ("*.py", "*.yaml", "*.sh")
]
FILES = [f"/{path.relative_to(ROOT).as_posix()}" for place, kind in PLACES for path in place.rglob(kind)]
WRITTEN = [ROOT / name.lstrip("/") for name in FILES if not name.startswith("/tests/")]  # tests make files of their own
WRITTEN += [ROOT / "Makefile", ROOT / "studies" / "Makefile"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_is_there(page):
    text = page.read_text()
    paths = [page.parent / target for target in re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    paths += [ROOT / path for path in re.findall(r"`((?:tests|conf|docs|results|studies|fairat_lightning)/[\w./-]*)`", text)]
    made = {ROOT / "docs" / "configuration.md"}  # by the build of the site
    assert not [path for path in paths if "foo" not in path.name and not path.exists() and path.resolve() not in made]


def tables(text):
    """The blocks of lines that begin with |, outside of code."""
    found, block, code = [], [], False
    for line in [*text.splitlines(), ""]:
        code ^= line.strip().startswith("```")
        if line.startswith("|") and not code:
            block.append(line)
        elif block:
            found, block = [*found, block], []
    return found


def cells(line):
    return len(re.sub(r"`[^`]*`|\\\|", "", line).strip().strip("|").split("|"))


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "results").rglob("*.md"))], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_table_has_a_head_and_rows_of_its_width(page):
    for head, *rest in tables(page.read_text()):
        assert rest and re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", rest[0]), f"no table begins with {head}"
        assert {cells(line) for line in rest[1:]} <= {cells(head)} and cells(rest[0]) == cells(head), head


def test_every_module_script_and_test_that_is_named_is_there():
    """On pages, in docstrings and comments: by its name alone or with folders above it, and what a module is said to hold."""
    missing = []
    for page in [*PAGES, *WRITTEN]:
        text = page.read_text()
        for name in set(re.findall(r"(?<![\w/.$])([a-z][\w/]*\.(?:py|sh))\b", text)) - INVENTED:
            if not any(file.endswith(f"/{name}") for file in FILES):
                missing.append((page.name, name))
        for module, name in re.findall(r"`([a-z_]+)\.([a-z]\w*(?:\.\w+)*)`", text):
            known = module in MODULES and name not in (*ENDINGS, "tar.xz") and not (CONF / module).is_dir()
            if known and not any(holds(path, name) for path in MODULES[module]):
                missing.append((page.name, f"{module}.{name}"))
    assert not missing


ENDINGS = ("py", "json", "md", "yaml", "csv")
INVENTED = {
    "foo.py",
    "test_foo.py",
    "fairat_lightning/methods/foo.py",
    "tests/unit/methods/test_foo.py",
    "job.sh",
    "mypackage.py",
}
MODULES: dict[str, list[str]] = {}
for file in FILES:
    if file.startswith("/fairat_lightning/") and file.endswith(".py"):
        dotted = file[1:-3].replace("/", ".").removesuffix(".__init__")
        MODULES.setdefault(dotted.rpartition(".")[2], []).append(dotted)


def holds(module: str, name: str) -> bool:
    try:
        return resolve_name(f"{module}.{name}") is not None
    except (ImportError, AttributeError):
        return False


def test_every_test_that_the_page_of_reliability_names_is_there():
    defined = {
        name for file in FILES if "/test_" in file for name in re.findall(r"def (test_\w+)", (ROOT / file[1:]).read_text())
    }
    named = re.findall(r"`([a-z]+(?:_[a-z]+){2,})(?:_\.\.\.)?`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 8
    assert not [name for name in named if not any(name in test for test in defined)]


def test_the_paths_of_the_plan_are_there():
    """Every file and folder of the table of docs/architecture.md, below the package or at the top."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = "".join(re.findall(r"(?m)^\|.*\|$", text))
    paths = [path for path in re.findall(r"`([\w/]+(?:\.py|\.yaml|/))`", table) if "." in path or "/" in path]
    assert len(paths) > 25
    assert not [path for path in paths if not (ROOT / "fairat_lightning" / path).exists() and not (ROOT / path).exists()]


def test_what_there_is_to_build_a_method_with_can_be_imported():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    parts = {"classwise": {"class_sums", "keep"}, "dro": {"kl_worst_weights"}, "methods.parts": {"HardExamples"}}
    for module, some in parts.items():
        (row,) = re.findall(rf"(?m)^\| `{module}`(.*)$", text)
        names = set(re.findall(r"`(\w+)(?:`|\()", row))
        assert some <= names
        assert all(hasattr(importlib.import_module(f"fairat_lightning.{module}"), name) for name in names)


def test_the_method_of_the_contributing_page_works(launch):
    """CONTRIBUTING's `Foo`, its settings and its test, as a new user would add them."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code, test = re.findall(r"```python\n(.*?)```", text, re.S)
    settings = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])
    module = types.ModuleType("fairat_lightning.methods.foo")
    exec(compile(code, "foo.py", "exec"), module.__dict__)
    sys.modules[module.__name__] = module
    option = ["method=pgd_at", f"method._target_={settings['_target_']}", f"+method.gamma={settings['gamma']}"]

    def with_foo(*words, **options):
        return launch(*(w for word in words for w in (option if word == "method=foo" else [word])), **options)

    try:
        names: dict = {}
        exec(compile(test, "test_foo.py", "exec"), names)
        names["test_gamma_0_is_plain_adversarial_training_bit_for_bit"](with_foo)
        _, metrics = with_foo("method=foo", folder="default")
    finally:
        del sys.modules[module.__name__]
    assert metrics["pgd20"]["per_class"]


def test_the_costs_of_the_methods_are_those_of_the_record():
    rows = {row["name"]: row for row in json.loads((ROOT / "results" / "cost.json").read_text())["rows"]}
    text = (ROOT / "docs" / "methods" / "index.md").read_text()
    table = re.findall(r"^\| `([a-z_]+)` .*\| ([\d.]+) \| ([\d.]+) \| ", text, re.M)
    assert {name for name, *_ in table} == set(options("method")) - {"standard"}
    for name, *costs in table:
        assert costs == [f"{rows[name][part]:.2f}" for part in ("step", "epoch")], name


def test_every_method_has_a_page_and_a_line_in_the_readme():
    for name in options("method"):
        page = ROOT / "docs" / "methods" / f"{name}.md"
        assert f"{{facts}} {name}" in page.read_text(), name
        assert f"(docs/methods/{name}.md)" in README or name == "standard", name


def test_the_ratios_of_the_performance_page_are_those_of_the_record():
    rows = json.loads((ROOT / "results" / "bench-cpu.json").read_text())["rows"]
    page = (ROOT / "docs" / "performance.md").read_text()
    shown = {(part, name): value for part, name, value in re.findall(r"^\| ([a-m]) \| (.+?) \| ([\d.]+)(?: %)? \| ", page, re.M)}
    number = lambda r: f"{100 * r['ratio']:.1f}" if r["part"] in "fij" else f"{r['ratio']:.2f}"  # noqa: E731
    assert shown == {(r["part"], r["name"]): number(r) for r in rows if "ratio" in r}


def test_the_first_table_and_what_was_run_are_those_of_the_records():
    readme = script("studies/readme.py")
    first = next(line for line in README.splitlines() if line.startswith("|"))
    assert first in readme.first_table() and len(readme.SHOWN) <= 8
    results = (ROOT / "results" / "README.md").read_text()
    assert readme.readme(README) == README, "README.md is not that of the records: make readme"
    assert readme.placed(results, readme.what_was_run()) == results, "results/README.md is not that of the records: make readme"
