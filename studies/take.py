"""Take the record of a report into `results/`: its table in JSON and Markdown, the published figures beside it, and its picture.

    python studies/take.py REPORT FOLDER

The page, CSV, LaTeX and single figures stay in REPORT, which makes them anew from its runs. `table.json` is laid out a cell to a
line and its fractions have six decimals, which takes half of the space; nothing in it is left out. The picture has 256 colours,
which takes a third. Needs Pillow alone.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

TABLE, OTHERS, PICTURE = "table.json", ("table.md", "published.md"), "comparison.png"


def take(report: Path, to: Path) -> None:
    """Copy the files that are kept; FileNotFoundError where `report` has no table."""
    table = json.loads((report / TABLE).read_text())
    table.pop("files", None)  # of the report; few of them are taken
    to.mkdir(parents=True, exist_ok=True)
    (to / TABLE).write_text(laid_out(table) + "\n")
    for name in OTHERS:
        if (report / name).exists():
            shutil.copyfile(report / name, to / name)
    if (report / PICTURE).exists():
        with Image.open(report / PICTURE) as image:
            image.convert("RGB").quantize(256).save(to / PICTURE, optimize=True)


def laid_out(value: Any, margin: str = "") -> str:
    """JSON with everything that holds no further mapping on a line of its own."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(holds_a_mapping(part) for part in parts):
        return json.dumps(rounded(value), allow_nan=False)
    inner = margin + " "
    heads = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(parts)
    lines = [inner + head + laid_out(part, inner) for head, part in zip(heads, parts, strict=True)]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return first + "\n" + ",\n".join(lines) + f"\n{margin}{last}"


def rounded(value: Any) -> Any:
    """Fractions to six decimals, the smaller ones to six digits; everything else as it is."""
    if isinstance(value, float):
        return round(value, 6) if abs(value) >= 1 else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def holds_a_mapping(value: Any) -> bool:
    return isinstance(value, dict) or isinstance(value, list) and any(map(holds_a_mapping, value))


def main() -> None:
    if len(sys.argv) != 3 or {"-h", "--help"} & set(sys.argv):
        print((__doc__ or "").strip())
        raise SystemExit(0 if {"-h", "--help"} & set(sys.argv) else 2)
    report, to = map(Path, sys.argv[1:])
    try:
        take(report, to)
    except FileNotFoundError:
        raise SystemExit(f"error: {report} holds no {TABLE}") from None
    print(to)


if __name__ == "__main__":
    main()
