"""The model card of an exported network read back: its figures class by class, what attacked it, its checks, its training.

A card is what an export keeps of a record. Its figures are rounded to a tenth of a point, and it holds no verdicts on images.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CARD = "README.md"
HEADING = "## Accuracy, class by class"
NOTE = "The figures are from the model card of an export: rounded to a tenth of a point, without predictions of single images."
PASSED = {"passed": True, "FAILED": False, "not run": None}


class Measured(NamedTuple):
    """One attack of a card: its key and title in a record, its threat model's norm and eps as written, its summary."""

    key: str
    title: str
    threat: dict[str, str] | None
    summary: dict[str, Any]


class Card(NamedTuple):
    """`headline` are the keys of the card's first tables; `facts` what it says of the training, as in run.json."""

    measured: list[Measured]
    headline: list[str]
    checks: list[dict[str, Any]]
    notes: list[str]
    facts: dict[str, Any]
    config: dict[str, Any] | None


def is_card(folder: Path) -> bool:
    """Whether `folder` is an exported network with its card."""
    path = folder / CARD
    return path.is_file() and HEADING in path.read_text(errors="replace").splitlines()


def read_card(folder: Path) -> Card:
    """The card of an exported folder. ValueError, one line with the path, where it holds no figures or they are damaged."""
    path = folder / CARD
    try:
        parts = _parts(path.read_text())
        known = dict(_attacks(parts.get("Threat model and attacks", [])))
        corrupted = [threat for key, threat in known.values() if key == "corruptions"]  # of evaluations that no eps bounds
        measured: list[Measured] = []
        first = True
        headline = []
        for line, tables in _tables(parts["Accuracy, class by class"]):
            first = first and line != "Also measured:"
            for title, summary in tables:
                key, threat = known.get(title, (title, None))
                threat = None if any(threat is one for one in corrupted) else threat
                title = re.sub(r" \(l\w+, eps [^()]*\)$", "", title)
                measured.append(Measured(key, title, _own(key, title, threat), summary))
                headline += [key] if first else []
        if not measured:
            raise ValueError("it holds no figures: the network was never evaluated before its export")
        configuration = "\n".join(line for line in parts.get("Resolved configuration", []) if not line.startswith("```"))
        config = yaml.safe_load(configuration) or None
        if not isinstance(config, dict | None):
            raise ValueError("its resolved configuration is not a mapping")
        training, attacks = parts.get("Training", []), parts.get("Threat model and attacks", [])
        return Card(measured, headline, list(_checks(attacks)), [NOTE, *_notes(attacks)], _facts(training), config)
    except (OSError, ValueError, KeyError, IndexError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as a model card: {(str(error).splitlines() or [''])[0]}") from None


def _parts(text: str) -> dict[str, list[str]]:
    """The lines of each section, by its heading."""
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("## "):
            lines = parts.setdefault(line.removeprefix("## "), [])
        else:
            lines.append(line)
    return parts


def _tables(lines: list[str]) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """Each table's columns, title and summary, with the last line of text above it."""
    above, table = "", []
    for line in [*lines, ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            continue
        if table:
            yield above, _columns(table)
            table = []
        above = line or above


def _columns(table: list[list[str]]) -> list[tuple[str, dict[str, Any]]]:
    end = [row[0] for row in table].index("**average**")
    names = [_plain(row[0]) for row in table[2:end]]
    average, inside, worst, around, bias, images = table[end : end + 6]
    found = []
    for k, title in enumerate(table[0][1:], 1):
        rates = [row[k] for row in table[2:end]]
        weakest = [name for name, rate in zip(names, rates, strict=True) if rate.startswith("**")]
        summary: dict[str, Any] = {
            "average": _share(average[k]),
            "worst": _share(worst[k]),
            "worst_class": weakest[0] if weakest else None,
            "per_class": {name: _share(rate) for name, rate in zip(names, rates, strict=True)},
        }
        ends = {name: cell[k].split(" to ") for name, cell in (("average", inside), ("worst", around)) if " to " in cell[k]}
        if ends:
            summary["interval"] = {name: [_share(end) for end in both] for name, both in ends.items()}
        if (off := _share(bias[k])) is not None:
            summary["worst_bias"] = off
        if images[k].replace(",", "").isdigit():
            summary["images"] = int(images[k].replace(",", ""))
        found.append((_plain(title), summary))
    return found


def _attacks(lines: list[str]) -> Iterator[tuple[str, tuple[str, dict[str, str]]]]:
    """Key and threat model of every attack, by its title."""
    threat: dict[str, str] = {}
    for line in lines:
        if found := re.match(r"- \*\*.*\*\*: (\w+), eps ([^,\s]+)", line):
            threat = {"norm": found[1], "eps": found[2]}
        elif found := re.match(r"  - (.*) \(`([^`]+)`\): ", line):
            yield _plain(found[1]), (found[2], threat)


def _own(key: str, title: str, threat: dict[str, str] | None) -> dict[str, str] | None:
    """The threat model of one attack: its evaluation's, or what its key or title says for itself."""
    if key == "clean" or threat is None:
        return None
    if re.fullmatch(r"\w+@[\d.e-]+", key):  # of a sweep
        return {**threat, "eps": key.partition("@")[2]}
    found = re.search(r" (L2|Linf) ([\d.e-]+)$", title)
    return {"norm": found[1].lower(), "eps": found[2]} if found else threat


def _checks(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []
        if len(cells) == 3 and cells[1].strip("*") in PASSED:
            yield {"name": _plain(cells[0]), "passed": PASSED[cells[1].strip("*")], "detail": _plain(cells[2])}


def _notes(lines: list[str]) -> Iterator[str]:
    name = ""
    for line in lines:
        if found := re.match(r"- \*\*(.*)\*\*: ", line):
            name = _plain(found[1])
        elif line.startswith("  - ") and not re.match(r"  - .* \(`[^`]+`\): ", line):
            yield f"Evaluation {name}: {_plain(line.removeprefix('  - '))}"


def _facts(lines: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines:
        if line.startswith("- "):
            key, _, value = line.removeprefix("- ").partition(": ")
            found[key.replace(" ", "_")] = _plain(value)
        elif line and not line.startswith("```"):
            found["command"] = line
    if str(found.get("seed")).isdigit():
        found["seed"] = int(found["seed"])
    for name in ("seconds", "hardware", "versions"):
        pairs = (part.rpartition(" ") if name != "hardware" else part.partition(" ") for part in found.get(name, "").split(", "))
        found[name] = {what: _number(value) for what, _, value in pairs if what}
    return found


def _number(text: str) -> Any:
    if text == "none":
        return None
    if text.isdigit():
        return int(text)
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else text


def _share(cell: str) -> float | None:
    """A cell in percent, in [0,1]; None for a dash."""
    text = cell.strip("*")
    return None if text == "–" else round(float(text) / 100, 5)


def _plain(text: str) -> str:
    """Markdown text as it was before `card_tables.text`."""
    return re.sub(r"\\([\\`*\[\]<>|#_])", r"\1", text)
