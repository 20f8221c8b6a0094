"""Imports run down only: commands -> run -> dashboards -> methods -> base -> leaves; no method imports another."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "fairat_lightning"
LEVEL = {
    "fairat_lightning": 0,
    "fairat_lightning.__main__": 5,
    "fairat_lightning.search": 5,
    "fairat_lightning.reproduce": 5,
    "fairat_lightning.recipes": 5,
    "fairat_lightning.judging": 5,
    "fairat_lightning.workload": 5,
    "fairat_lightning.sweep": 5,
    "fairat_lightning.evaluate": 5,
    "fairat_lightning.judge": 5,
    "fairat_lightning.balance": 5,
    "fairat_lightning.export": 5,
    "fairat_lightning.classifier": 5,
    "fairat_lightning.build": 4,
    "fairat_lightning.run": 4,
    "fairat_lightning.trainer": 4,
    "fairat_lightning.dashboards": 3.5,
    "fairat_lightning.guards": 3,
    "fairat_lightning.faults": 3,
    "fairat_lightning.methods": 3,
    "fairat_lightning.methods.base": 2,
}


def level(module: str) -> float:
    if module in LEVEL:
        return LEVEL[module]
    if module.split(".")[:2] == ["fairat_lightning", "report"]:
        return 3.5
    return 2.5 if module.startswith("fairat_lightning.methods.") else 1


def imports(path: Path, package: str = "fairat_lightning") -> set[str]:
    """What `path` imports of `package`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "fairat_lightning":
                found |= {f"fairat_lightning.{a.name}" for a in node.names if (PACKAGE / f"{a.name}.py").exists()}
    return {name for name in found if name.split(".")[0] == package}


def modules() -> dict[str, Path]:
    named = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def test_no_import_runs_up_or_between_methods():
    for name, path in modules().items():
        for other in imports(path) - {"fairat_lightning"}:
            assert level(other) <= level(name), f"{name} imports {other}, which stands above it"
            if level(name) == 2.5:
                assert level(other) < 2.5, f"method {name} imports method {other}"


def test_only_the_commands_know_hydra():
    for name, path in modules().items():
        if level(name) < 4:
            assert not imports(path, "hydra"), name


def test_no_file_is_too_long_to_read_in_one_sitting():
    for name, path in modules().items():
        assert len(path.read_text().splitlines()) <= 260, name
