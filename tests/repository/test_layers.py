"""The plan of `docs/architecture.md`: imports run down one way, files have their places and stay short."""

import ast
import inspect
import io
import re
import tokenize
from importlib import import_module
from pathlib import Path

from helpers import ROOT
from lightning.pytorch.callbacks import WeightAveraging

from fairat_lightning.record.attack_titles import TITLES

PACKAGE = ROOT / "fairat_lightning"
INTERNALS = "fairat_lightning.running.lightning_internals"
ENTRIES = ("__main__", "balance", "evaluate", "export", "report.__main__", "reproduce", "search")
INGREDIENTS = (  # one idea of the field each
    *("attacks", "augment", "awp", "bootstrap", "classwise", "dro", "head", "metrics", "objectives", "optim"),
)
ORDER = (  # each may import what stands in a later line
    (*ENTRIES, "api"),
    ("commands",),
    ("training", "standalone"),
    ("methods",),
    ("evaluation",),
    ("config",),
    ("averaging",),  # on Lightning's callback, by running/lightning_internals.py
    ("report", "running"),
    ("data", "models", *INGREDIENTS),
    ("record",),
    ("pretrained",),
    ("settings",),
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
WITHIN = {  # what may import another of its own line
    "awp": {"classwise"},
    "data": {"augment"},
    "metrics": {"bootstrap", "dro"},
}
HEAVY = ("torch", "torchvision", "lightning", "torchmetrics", "matplotlib", "scipy", "wandb", "optuna")


def modules() -> dict[str, Path]:
    named = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


MODULES = modules()


def imported(tree: ast.AST) -> set[str]:
    """Every module that a file imports, by its full name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module}
    return found


def part(module: str) -> str:
    """The line of ORDER that a module of ours belongs to is that of this part."""
    inside = module.removeprefix("fairat_lightning.")
    return inside if inside in ENTRIES else inside.split(".")[0]


def ours(module: str, names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("fairat_lightning.") and name != module}


IMPORTS = {name: imported(ast.parse(path.read_text())) for name, path in MODULES.items() if name != "fairat_lightning"}


def test_every_part_has_its_place():
    assert {part(name) for name in IMPORTS} == set(LEVEL)


def test_the_page_of_the_architecture_has_this_order():
    text = (ROOT / "docs" / "architecture.md").read_text()
    (order,) = re.findall(r"\n\n((?:    .*>.*\n| {6}>.*\n)+)\n", text)
    short = {"the commands at the top": ENTRIES, "ideas": INGREDIENTS}
    shown = [[part.strip() for part in line.split(",")] for line in order.split(">")]
    assert [{name for part in line for name in short.get(part, (part,))} for line in shown] == [set(line) for line in ORDER]
    assert f" {len(ORDER)} layers" in text


def test_no_import_runs_up_or_to_a_neighbour():
    for module, names in IMPORTS.items():
        mine = part(module)
        for other in {part(name) for name in ours(module, names)} - {mine}:
            fits = LEVEL[mine] < LEVEL[other] or other in WITHIN.get(mine, ())
            assert fits, f"{module} imports {other}, which does not stand below it"


def test_there_is_no_circle_within_a_package():
    graph = {module: ours(module, names) & IMPORTS.keys() for module, names in IMPORTS.items()}
    while leaves := {module for module, needs in graph.items() if not needs}:
        graph = {module: needs - leaves for module, needs in graph.items() if module not in leaves}
    assert not graph, f"these import each other: {sorted(graph)}"


def test_no_method_imports_another():
    methods = {f"fairat_lightning.methods.{path.stem}" for path in (PACKAGE / "methods").glob("*.py")}
    for module in methods - {"fairat_lightning.methods.__init__", "fairat_lightning.methods.base"}:
        assert not IMPORTS[module] & methods - {"fairat_lightning.methods.base"}, module


def test_nothing_imports_from_the_module_of_a_command():
    entries = {f"fairat_lightning.{entry}" for entry in ENTRIES}
    assert not any(names & entries for names in IMPORTS.values())


def test_the_module_of_a_command_is_a_help_and_one_call():
    for entry in ENTRIES:
        module = f"fairat_lightning.{entry}"
        assert len(MODULES[module].read_text().splitlines()) <= 30
        assert len(IMPORTS[module]) == 1 and part(*IMPORTS[module]) == "commands", module


def test_only_commands_configurations_and_what_they_build_know_hydra():
    for module, names in IMPORTS.items():
        if any(name.split(".")[0] == "hydra" for name in names):
            assert part(module) in ("commands", "config"), module


def test_private_names_of_lightning_are_in_one_file():
    for module, path in MODULES.items():
        text = path.read_text()
        private = re.findall(r"\b(?:trainer|strategy|metric|logger)\._(?!_)\w+|import _\w*Launcher\w*", text)
        assert not private or module == INTERNALS, (module, private)


def test_no_class_of_ours_takes_a_private_name_of_its_base():
    """Of Lightning or torchmetrics: neither used on self nor given anew."""
    bases = set()
    for module in MODULES.keys() - {INTERNALS}:
        if not module.endswith("__main__"):
            for node in ast.walk(ast.parse(MODULES[module].read_text())):
                if isinstance(node, ast.ClassDef) and (theirs := foreign(getattr(import_module(module), node.name, object))):
                    bases |= theirs
                    own = {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef)}
                    own |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and ast.unparse(n.value) in SELF}
                    taken = own & {name for base in theirs for name in private_names(base)}
                    assert not taken, f"{module}.{node.name} has private names of its base: {taken}"
    assert len(bases) > 5
    assert {"_average_model", "_swap_models"} <= private_names(WeightAveraging)


SELF = ("self", "cls", "super()")


def foreign(thing: type) -> set[type]:
    """The classes of Lightning and torchmetrics that a class is made from."""
    return {base for base in thing.__mro__ if base.__module__.split(".")[0] in ("lightning", "torchmetrics")}


def private_names(base: type) -> set[str]:
    """What a class defines, and what its methods put on self."""
    names = {*vars(base), *re.findall(r"self\.(_\w+)", inspect.getsource(base))}
    return {name for name in names if re.match(r"_(?!_|abc_)", name)}


def test_the_names_of_a_record_s_files_are_written_once():
    """The checkpoint that a run's test judged, and what begins a record, are named where records are read and written."""
    for module, path in MODULES.items():
        if part(module) != "record":
            said = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert "best.ckpt" not in said and not re.search(r"write(_json)?\([^)]*(config\.yaml|run\.json)", path.read_text()), (
                module
            )


def test_attacks_have_their_titles_from_one_table():
    for module, path in MODULES.items():
        if part(module) not in ("record", "report"):  # reports abbreviate the heads of their columns
            said = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            again = {text for text in said if isinstance(text, str) and text.rstrip(" (") in set(TITLES.values()) - {"clean"}}
            assert not again, (module, again)


def test_what_a_refusal_needs_is_light():
    """A module that a command imports before it has looked at its words imports nothing that takes long at its top."""
    begun = {"fairat_lightning.commands.cli", "fairat_lightning.commands"}
    begun |= {f"fairat_lightning.commands.{name}" for name in ("train", "sweep", "evaluate", "export", "search", "balance")}
    begun |= {"fairat_lightning.commands.reproduce", "fairat_lightning.commands.report"}
    seen, todo = set(), begun
    while todo:
        module = todo.pop()
        seen.add(module)
        for parent in [module, module.rpartition(".")[0]]:
            if parent in IMPORTS:
                names = imported(ast.Module([n for n in ast.parse(MODULES[parent].read_text()).body if at_import(n)], []))
                assert not {name.split(".")[0] for name in names} & set(HEAVY), (parent, names)
                todo |= (ours(parent, names) & IMPORTS.keys()) - seen


def at_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def test_no_file_is_too_long_to_read_in_one_sitting():
    for name, path in MODULES.items():
        assert len(path.read_text().splitlines()) <= 260, name
    for path in (ROOT / "tests").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, path


def test_no_name_is_a_private_idiom():
    """Whole, or as a part of an identifier: test_a_door_is_closed."""
    for path in (path for place in ("fairat_lightning", "tests", "studies") for path in (ROOT / place).rglob("*.py")):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.NAME:
                words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", token.string)}
                assert not words & {"door", "doors", "room", "rooms", "house", "houses"}, (path, token.string)


def test_results_are_records():
    files = [path for path in (ROOT / "results").rglob("*") if path.is_file()]
    assert {path.suffix for path in files if path.name != "runs.tar.xz"} <= {".json", ".md", ".png"}
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_unit_tests_mirror_the_package_and_no_test_imports_another():
    for path in (ROOT / "tests" / "unit").rglob("test_*.py"):
        place = PACKAGE / path.relative_to(ROOT / "tests" / "unit").parent
        name = path.name.removeprefix("test_")
        assert (place / name).is_file() or f"{place.name}.py" == name, f"{path} tests no module of its name"
    for path in (ROOT / "tests").rglob("*.py"):
        assert not any(name.split(".")[-1].startswith("test_") for name in imported(ast.parse(path.read_text()))), path
