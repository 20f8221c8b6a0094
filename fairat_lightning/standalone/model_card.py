"""The model card, `README.md` of an exported network: what it is, how it loads, its figures class by class, attacks and limits.

Everything that is said of a run is read from its records; nothing is said of what was not measured. Accuracies are in [0,1] in
a record and in percent here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairat_lightning import __version__
from fairat_lightning.evaluation.attacks import ATTACKS
from fairat_lightning.standalone.card_records import Records
from fairat_lightning.standalone.card_tables import Column, Evaluation, class_tables, columns, text, threat_text

LOSSES = {"cross_entropy": "the cross-entropy", "margin": "the margin loss of Carlini and Wagner"}
AUTOATTACK = {
    "apgd_ce": "APGD on the cross-entropy",
    "apgd_t": "APGD on the targeted DLR loss, on what survived the attacks before",
    "fab_t": "targeted FAB, on what survived the attacks before",
    "square": "Square, a black box, on what survived the attacks before",
    "apgd": "APGD-CE, then APGD-T on what survived it: the first half of AutoAttack",
    "autoattack": "the standard AutoAttack: APGD-CE, APGD-T, FAB-T and Square, each on what survived those before",
}
FRONT = """---
library_name: pytorch
pipeline_tag: image-classification
tags:
- adversarial-robustness
- robust-fairness
- image-classification
# license: yours to choose, it is not set here (the code in model.py comes from fairat_lightning, Apache-2.0)
---
"""
LOAD = """## Load it

```python
import torch
from model import load  # with this folder as the working directory or on sys.path

logits = load()(torch.rand(1, {channels}, {size}, {size}))  # images (B,{channels},{size},{size}) in [0,1]; logits (B,{count})
```

It needs {needs}, and no Lightning. `model.py` holds the network and its classes' names (`CLASSES`), `model.safetensors`
the weights with mean and standard deviation: do not normalise images outside. When this was written, the network that `load`
gives returned the original's logits bit for bit.
"""
READING = """The average is the mean over the classes. Intervals are 95 % intervals over the test images; another
seed of the training is another matter. The lowest of several noisy class accuracies tends to lie too low: the bias says by how
many points, and the interval allows for it.
"""


@dataclass(frozen=True)
class Facts:
    """What is exported: its name and constructor, parameters, data set, classes, image shape, and what `model.py` needs.

    `imported`: `model.py` imports the constructor instead of holding its source.
    """

    name: str
    constructor: str
    parameters: int
    data: str
    classes: Sequence[str]
    channels: int
    size: int
    needs: str
    imported: bool = False


def write(facts: Facts, records: Records) -> str:
    """The card, as Markdown with its YAML front matter."""
    evaluations, training = records.evaluations, records.training
    shown = columns(evaluations)
    parts = [FRONT, f"# {text(facts.name)} for {text(facts.data)}\n", *_failed(evaluations), _what(facts, evaluations)]
    parts.append(LOAD.format(channels=facts.channels, size=facts.size, count=len(facts.classes), needs=facts.needs))
    parts.append("## Accuracy, class by class\n")
    parts += [f"{text(remark)}\n" for remark in records.remarks]
    if shown:
        first, others = [c for c in shown if c.first], [c for c in shown if not c.first]
        parts += [f"Percent of the test images.\n\n{table}" for table in class_tables(first)] + [READING]
        parts += [f"Also measured:\n\n{table}" for table in class_tables(others)]
        parts.append(_attacks(shown, evaluations))
    parts.append(_limits(facts, shown, records.selected))
    parts += [_training(training, records.method)] if training is not None else []
    parts.append(f"## Resolved configuration\n\n```yaml\n{anonymous(records.config.strip())}\n```\n")
    return "\n".join(parts)


def _failed(evaluations: Sequence[Evaluation]) -> list[str]:
    checks = [check for e in evaluations for check in e.checks]
    failed = [check for check in checks if check["passed"] is False]
    if not failed:
        return []
    head = f"> **{len(failed)} of {len(checks)} sanity checks failed: do not trust the robustness below.**"
    return ["\n".join([head, ">", *(f"> - {text(check['name'])}: {text(check['detail'])}" for check in failed)]) + "\n"]


def _what(facts: Facts, evaluations: Sequence[Evaluation]) -> str:
    names, shape = ", ".join(map(text, facts.classes)), f"(B,{facts.channels},{facts.size},{facts.size})"
    code = "`model.py` imports it, and its code is not in this folder" if facts.imported else "its code is in `model.py`"
    lines = [
        f"An image classifier, exported by fairat_lightning {__version__}, which trains and audits for adversarial robustness",
        "of every class and not only of the average.\n",
        f"- network: `{facts.constructor}`, {facts.parameters:,} parameters; {code}",
        f"- data: {text(facts.data)}, {len(facts.classes)} classes: {names}",
        f"- in: images {shape}, float in [0,1]; out: logits (B,{len(facts.classes)}) in the order of the classes above",
    ]
    threats = dict.fromkeys(threat_text(e.threat) for e in evaluations)
    lines += [f"- threat model of the evaluation: {threat}" for threat in threats]
    return "\n".join([*lines, "- license: not set here, the author's to choose\n"])


def _attacks(shown: Sequence[Column], evaluations: Sequence[Evaluation]) -> str:
    lines = ["## Threat model and attacks\n"]
    lines.append("The attacker knows the network and changes each image by at most eps in the norm, within [0,1]; pixels run")
    lines.append("from 0 to 1. Each attack is the same for every class.\n")
    for e in evaluations:
        settings = "".join(f", {text(k)} {text(v)}" for k, v in e.settings.items() if v is not None)
        lines.append(f"- **{text(e.name)}**: {threat_text(e.threat)}{settings}")
        lines += [f"  - {text(c.title)} (`{c.key}`): {_settings(c)}" for c in shown if c.of is e]
        lines += [f"  - {text(note)}" for note in e.notes]
    if checks := [check for e in evaluations for check in e.checks]:
        marks = {True: "passed", False: "**FAILED**", None: "not run"}
        lines += ["\nSanity checks of the attacks:\n", "| check | | detail |", "|---|---|---|"]
        lines += [f"| {text(c['name'])} | {marks[c['passed']]} | {text(c['detail'])} |" for c in checks]
    return "\n".join(lines) + "\n"


def _settings(column: Column) -> str:
    if column.key == "clean":
        return "the images as they are"
    if column.key in AUTOATTACK:
        return AUTOATTACK[column.key]
    key, _, other = column.key.partition("@" if "@" in column.key else "_l")
    if key not in ATTACKS:
        return "the images changed as the name says"
    spec = ATTACKS[key]
    step = "" if other else f" = {column.of.threat[1] / 4:.4g}"
    start = "one random start" if spec.tries == 1 or spec.loss == "targeted" else f"{spec.tries} random starts"
    if not spec.steps:
        return f"the best of {spec.tries} random points of the ball"
    if spec.start == "zero":
        return f"one step of size eps on {LOSSES[spec.loss]}, from the image itself"
    aim = LOSSES.get(spec.loss, f"the difference of two logits, towards each of the {spec.tries} nearest wrong classes")
    return f"{spec.steps} steps of size eps/4{step} on {aim}, {start} drawn from the image's index"


def _limits(facts: Facts, shown: Sequence[Column], selected: bool) -> str:
    lines = ["## Limits\n"]
    if shown:
        counts = [n for c in shown for n in c.summary.get("counts", {}).values() if n]
        threats = "; ".join(dict.fromkeys(threat_text(c.of.threat) for c in shown))
        few = f", and of as few as {min(counts):,} images a class it is noisy." if counts else "."
        lines += [
            f"- Robust, as far as it is, to changes within the threat model only ({threats}), on images like those of",
            f"  {text(facts.data)}. Nothing follows for another norm, a larger eps, other changes of the image or other data.",
            "- Accuracy under PGD or any other attack is an upper bound on robustness: a stronger attack can only lower it.",
            f"- The figures are of this test set. The worst class is chosen on the images it is measured on{few}",
        ]
    else:
        lines.append("- Nothing is known here of its accuracy or its robustness, on average or of any class.")
    lines.append("- Fair means here: to the classes of this data set. Nothing is said of groups of people.")
    if selected:
        lines.append("- The epoch was selected on validation images, a part of the training set, never on test images.")
    return "\n".join(lines) + "\n"


def _training(record: Mapping[str, Any], method: str | None) -> str:
    """What run.json says of how, where and when; the only clock is the run's own."""
    versions = ", ".join(f"{name} {v}" for name, v in {"python": record.get("python"), **record.get("versions", {})}.items())
    hardware, seconds = record.get("hardware", {}), record.get("seconds", {})
    rows = {
        "trained with": method,
        "seed": record.get("seed"),
        "started": record.get("started"),
        "resumed": ", ".join(str(r.get("started")) for r in record.get("resumed", [])) or None,
        "seconds": ", ".join(f"{what} {value}" for what, value in seconds.items()) or None,
        "selected epoch": None if record.get("selected_epoch") is None else f"{record['selected_epoch'] + 1}, counted from 1",
        "hardware": ", ".join(f"{what} {value or 'none'}" for what, value in hardware.items()) or None,
        "versions": versions,
        "git revision": record.get("git") or "none: not run from a checkout",
    }
    said = [f"- {key}: {text(value)}" for key, value in rows.items() if value is not None]
    return "\n".join(["## Training\n", f"```sh\n{anonymous(str(record.get('command', 'unknown')))}\n```\n", *said]) + "\n"


def anonymous(words: str) -> str:
    """`words` with only the last part of every absolute path: a card is for others, who have other folders."""
    return re.sub(r"(?<![\w.:/~-])~?(/[\w.@+-]+)+/([\w.@+-]+)", r".../\2", words)
