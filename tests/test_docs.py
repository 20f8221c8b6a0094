"""What the README says runs."""

import re
import shlex
from pathlib import Path

import pytest

from fairat_lightning.__main__ import resolved
from fairat_lightning.classifier import compose as evaluation

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ONE_LINE = re.sub(r"\\\n\s*", "", README)
COMMANDS = [
    line.split("#")[0].strip()
    for line in ONE_LINE.splitlines()
    if line.strip().startswith("python -m fairat_lightning ") and "..." not in line
]


def test_the_python_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert len(names["method"].results["pgd20"]["per_class"]) == 10


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(compose, command):
    words = shlex.split(command)[3:]
    if "--help" in words:
        return
    sweep = "-m" in words
    words = [word.split(",")[0] if sweep else word for word in words if word != "-m"]
    assert resolved(compose(*words))["method"]


@pytest.mark.parametrize("line", re.findall(r"^    python -m fairat_lightning\.evaluate ([^#\n]*)", ONE_LINE, re.M))
def test_every_evaluation_composes(line):
    assert evaluation("evaluate", shlex.split(line)).suite["_target_"]


def test_there_are_commands_to_test():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_file_that_is_named_exists(name):
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(r"`((?:tests|conf|docs|results)/[\w./-]*\w)`", text):
        if "foo" not in target:
            assert (ROOT / target).exists(), target


def test_the_method_of_the_contributing_page_works(launch):
    """CONTRIBUTING's `Foo`, as a new user would add it."""
    import sys
    import types

    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    module = types.ModuleType("fairat_lightning.methods.foo")
    exec(compile(code, "foo.py", "exec"), module.__dict__)
    sys.modules[module.__name__] = module
    try:
        _, metrics = launch("method=pgd_at", "method._target_=fairat_lightning.methods.foo.Foo", "+method.gamma=1.0")
    finally:
        del sys.modules[module.__name__]
    assert metrics["pgd20"]["per_class"]
