"""Passwords, keys and tokens: kept out of what a record holds."""

import re
from typing import Any

SECRET = r"\w*(?:api_?key|access_?key|auth|token|passw\w+|secret|credential)s?"

COUNTED = r"(?i)[\w.@]*tokens?"  # a key whose value may be a number, or whether there are any
PLAIN = r"(?i)[+-]?[\d._]+|true|false|null"


def redacted(text: str) -> str:
    """An argument of a command without what follows a key such as api_key= or token=, and an address without its credentials."""
    text = re.sub(r"//[^\s'\"]*@", "//***@", text)
    if found := re.match(rf"(?i)([+~]*[\w./@]*(?:{SECRET})[\w.]*=).", text):
        key, _, value = text.lstrip("+~").partition("=")
        if re.fullmatch(COUNTED, key) and re.fullmatch(PLAIN, value):
            return text
        return f"{found[1]}***"
    return re.sub(rf"(?i)([\w.]*(?:{SECRET})[\w.]*['\"]?[=:]\s*)[^\s,}}\]]+", r"\1***", text)


def refuse_secrets(node: Any) -> None:
    """ValueError for a key that sounds like a secret anywhere in a configuration, which is written down."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        counted = not isinstance(value, str) and re.fullmatch(COUNTED, str(key))
        if value is not None and not counted and re.search(rf"(?i)^({SECRET})$", str(key)):
            raise ValueError(
                f"{key} must not be in the configuration, which every record stores: set it as an environment variable"
            )
        refuse_secrets(value)
