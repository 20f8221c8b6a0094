"""The source of `model.py`: one file that builds an exported network from its weights, without this package.

It holds the definitions that the network needs and no other, copied from the package's own files, and a `load` that calls
the network's constructor with its resolved arguments. What is copied is found by name: beginning with the constructor, every
name that a definition uses and that is defined at the top of its file, or imported from another file of ours, is copied too.
Imports of other packages stay imports. A class of one's own is imported too, from its package. A timm model is created by
timm, and its stem is changed as `models/from_timm.py` does it: this leaf imports `fairat_lightning.models` for that.
"""

import ast
import importlib
import inspect
import pkgutil
import pprint
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairat_lightning import __version__
from fairat_lightning.models import Normalized, from_timm
from fairat_lightning.models.logits import Pick

PACKAGE = "fairat_lightning"
NEEDED = ("from pathlib import Path", "from safetensors.torch import load_file", "from torch import nn")
TEMPLATE = '''"""{title}

Images (B,{channels},H,W) in [0,1] go in, logits (B,{count}) come out:

    from model import load

    logits = load()(images)

Needs {needs}. Written by fairat_lightning {version} (Apache-2.0), whose code this is.
"""

{imports}

CLASSES = {classes}


{definitions}


def load(folder: str | Path = Path(__file__).parent) -> nn.Module:
    """The network on the CPU, in eval mode, with the weights in `folder`/model.safetensors."""
{lines}
    net.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return net.eval()
'''


@dataclass(frozen=True)
class Shape:
    """What the data say of a network: class names, channels, and pixels a side."""

    classes: Sequence[str]
    channels: int
    size: int


@dataclass(frozen=True)
class Recipe:
    """How a network is built: statements that bind `net`, and what they use, from our files (`roots`) and from elsewhere."""

    lines: list[str]
    roots: list[Callable[..., Any]]
    imports: tuple[str, ...] = ()
    needs: str = "torch and safetensors"


def write(net: Normalized, model: Mapping[str, Any], shape: Shape) -> tuple[str, str]:
    """The source of `model.py` for `net`, which `model`, a configuration with its `_target_`, has built; and what it needs."""
    recipe = _recipe(net, model, shape)
    imports, definitions = closure(recipe.roots)
    source = TEMPLATE.format(
        title=f"{title(model)}, a classifier of {len(shape.classes)} classes.",
        channels=shape.channels,
        count=len(shape.classes),
        needs=recipe.needs,
        version=__version__,
        imports=_sorted({*imports, *recipe.imports, *NEEDED}),
        classes=pprint.pformat(list(shape.classes), width=110, compact=True),
        definitions=definitions,
        lines="\n".join("    " + line for line in recipe.lines),
    )
    return source, recipe.needs


def title(model: Mapping[str, Any]) -> str:
    """What a reader calls the network: its constructor's name, or timm's."""
    name = model["_target_"].rpartition(".")[2]
    return f"{model['name']} of timm" if is_ours(model["_target_"]) and name == "timm" else name


def is_ours(target: str) -> bool:
    """Whether a network's source is copied; a class of one's own is imported."""
    return target.startswith(f"{PACKAGE}.")


def closure(roots: Sequence[Callable[..., Any]]) -> tuple[set[str], str]:
    """The import statements and the source of all definitions that functions or classes of this package need, and their own."""
    found: dict[str, set[int]] = {}  # file by file, a file after those it uses: which of its statements
    imports: set[str] = set()
    for root in roots:
        _follow(root.__module__, root.__name__, found, imports)
    parts, names = [], []
    for module, wanted in found.items():
        text = inspect.getsource(importlib.import_module(module))
        for place, node in enumerate(ast.parse(text).body):
            if place in wanted:
                first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
                parts.append("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
                names += _binds(node)
    assert len(set(names)) == len(names), "two definitions of one name"
    return imports, "\n\n\n".join(parts)


def _follow(module: str, name: str, found: dict[str, set[int]], imports: set[str]) -> None:
    """Note the statement that binds `name` at the top of `module`, after whatever it uses."""
    wanted = set(found.get(module, set()))
    for place, node in enumerate(ast.parse(inspect.getsource(importlib.import_module(module))).body):
        if name not in _binds(node) or place in wanted:
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            alias = next(alias for alias in node.names if name == (alias.asname or alias.name.split(".")[0]))
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == PACKAGE:
                assert alias.asname is None, f"{name} would need its own name"
                _follow(str(node.module), alias.name, found, imports)
            else:
                node.names = [alias]
                imports.add(ast.unparse(node))
            return
        seen = found.setdefault(module, set())
        seen.add(place)
        for used in sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {name}):
            _follow(module, used, found, imports)
        found[module] = found.pop(module)
        return


def _binds(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def _sorted(statements: set[str]) -> str:
    """Import statements, those of one module in one line, Python's own first."""
    plain = sorted(s for s in statements if s.startswith("import "))
    names: dict[str, list[str]] = {}
    for statement in sorted(statements - set(plain)):
        _, module, _, name = statement.split(" ", 3)
        names.setdefault(module, []).append(name)
    lines = [*plain, *(f"from {module} import {', '.join(found)}" for module, found in names.items())]
    own = [line for line in lines if line.split()[1].split(".")[0] in sys.stdlib_module_names]
    return "\n".join([*own, "", *(line for line in lines if line not in own)])


def _recipe(net: Normalized, model: Mapping[str, Any], shape: Shape) -> Recipe:
    values = {key: value for key, value in model.items() if key not in ("_target_", "suggests")}
    given: dict[str, Any] = {"num_classes": len(shape.classes), "in_channels": shape.channels}
    module, _, name = model["_target_"].rpartition(".")
    if not is_ours(model["_target_"]):
        return _imported(net, module, name, values, given)
    function = getattr(importlib.import_module(module), name)
    if "image_size" in values:
        values["image_size"] = shape.size
    if function is from_timm.timm:
        return _timm(net, values, given)
    return Recipe(_call("net", function.__name__, **given, **values), [function])


def _imported(net: Normalized, module: str, name: str, values: dict[str, Any], given: dict[str, Any]) -> Recipe:
    """The user's own class, called and normalised as `build.foreign_network` does it; where its logits were picked, so here."""
    takes = inspect.signature(pkgutil.resolve_name(f"{module}:{name}")).parameters
    values |= {key: value for key, value in given.items() if key in takes and key not in values}
    front = {"mean": [0.0], "std": [1.0]}
    front |= {key: values.pop(key) for key in front if key in values and key not in takes}
    place = values.pop("logits", None) if "logits" not in takes else None
    lines = _call("model", f"{module}.{name}", **values)
    roots: list[Callable[..., Any]] = [Normalized]
    if any(isinstance(hook, Pick) and hook.found is not None for hook in net.model._forward_hooks.values()):
        lines.append(f"model.register_forward_hook(Pick({place!r}, {given['num_classes']}))")
        roots.append(Pick)
    lines += _call("net", "Normalized", "model.float()", **front, in_channels=given["in_channels"])
    return Recipe(lines, roots, (f"import {module}",), f"torch, safetensors and {module.split('.')[0]}")


def _timm(net: Normalized, values: dict[str, Any], given: dict[str, Any]) -> Recipe:
    import timm

    size, options = values.get("image_size"), {}
    config = timm.get_pretrained_cfg(values["name"])
    if size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = size
    classes, channels = given["num_classes"], given["in_channels"]
    lines = _call("model", "timm.create_model", repr(values["name"]), num_classes=classes, in_chans=channels, **options)
    roots: list[Callable[..., Any]] = [Normalized]
    if size is not None and size <= from_timm.SMALL and isinstance(net.model, timm.models.resnet.ResNet):
        lines.append("_keep_small_images_whole(model)")
        roots.append(from_timm._keep_small_images_whole)
    front = {key: values[key] for key in ("mean", "std", "channels_last") if key in values}
    lines += _call("net", "Normalized", "model", **front, in_channels=channels)
    return Recipe(lines, roots, ("import timm",), f"torch, safetensors and timm ({timm.__version__} here)")


def _call(name: str, function: str, *positional: str, **values: Any) -> list[str]:
    words = [*positional, *(f"{key}={value!r}" for key, value in values.items())]
    line = f"{name} = {function}({', '.join(words)})"
    return [line] if len(line) <= 110 else [f"{name} = {function}(", *(f"    {word}," for word in words), ")"]
