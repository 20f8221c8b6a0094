"""Every message that docs/troubleshooting.md quotes is in the source."""

import ast
import re

import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
QUOTED = re.findall(r"^`(.+)`\n: ", PAGE, re.M)  # the terms of the definition lists
VALUE = "\0"  # what an f-string fills in


def normal(text: str) -> str:
    return " ".join(text.split())


def strings() -> list[str]:
    """Every string of the package, literals joined as Python joins them."""
    found = []
    for path in (ROOT / "fairat_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else VALUE for part in node.values))
    return found


SOURCE = normal("\n".join(strings()))


def missing(message: str) -> list[str]:
    """The pieces between the dots that no string of the package has."""
    pieces = [normal(piece) for piece in message.removeprefix("error: ").split("...")]
    return [piece for piece in pieces if piece not in SOURCE]


def test_the_page_quotes_many_messages():
    assert len(QUOTED) > 40


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_source(message):
    assert max(map(len, message.removeprefix("error: ").split("..."))) > 9, "nothing of it could be found"
    assert missing(message) == []


def test_another_message_is_not():
    assert missing("error: ... does not hold the moon: choose one of ...") == ["does not hold the moon: choose one of"]
