"""What the site takes from the project itself when it is built: the reference of the configuration, and what the records say of
a method and of the speed of a processor. So that none of it can be out of date.

`configuration.md` is written before the pages are read. The directive `{facts} faal` gives a method's cost, our figures and the
published ones; `:published:` names the rows of `fairat_lightning/report/published_figures/`, as FILE.ROW. `{speed}` gives
images a second.
"""

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
CONF, RESULTS = ROOT / "conf", ROOT / "results"
GROUPS = {
    "method": "Methods: what is trained.",
    "data": "Data sets. Each suggests a network, eps, a number of epochs and an augmentation; the command line overrides them.",
    "model": "Networks. They take images in [0,1]: the normalisation is inside.",
    "attack": "Attacks: norm and eps are the threat model, in training and in every evaluation.",
    "objective": "Objectives: what the attack maximises and what the training minimises.",
    "awp": "Adversarial weight perturbation, with every method.",
    "averaging": "Averages of the weights, with every method.",
    "head": "What happens to the last layer after the training.",
    "optim": "Optimisers.",
    "schedule": "Schedules of the learning rate, for `optim=sgd` and `optim=adamw`.",
    "trainer": "Hardware: devices, precision and number of epochs.",
    "logger": "Loggers. Several at once: `logger=[csv,wandb]`.",
    "suite": "What `python -m fairat_lightning.evaluate` runs.",
    "experiment": "Recipes of the papers, as complete configurations.",
}

SAME = {  # keys that are the same in every option of their group
    "conf": {"seed": "of weights, order of the data, augmentation and attacks"},
    "method": {
        "lambda2": "the offset of beta",
        "temperature_range": "the least and the highest temperature of a class",
        "ccm": "class-wise eps",
        "ccr": "class-wise beta",
        "gamma": "the share of the uniform distribution in the sampler",
        "share": "of the confusion term in the loss",
        "temperature": "of teacher and student",
        "power": "how strongly weak classes are weighted",
        "hard_threshold": "a loss in nats above which an example is hard, in place of hard_fraction",
        "limit": "the largest sum of the multipliers",
        "eps_range": "the least and the largest factor of eps",
    },
    "data": {
        "load": "the function that reads the set",
        "train_size": "how many training images are used; null: all that validation leaves",
        "test_size": "how many test images are used; null: all",
        "flip": "whether training images are mirrored at random",
        "seed": "of the order of the training batches",
        "eval_batch_size": "no result depends on it",
        "image_size": "pixels a side",
        "padding": "black pixels around an image before it is cropped at random",
        "load.num_classes": "classes",
        "load.train_per_class": "training images a class",
        "load.test_per_class": "test images a class",
        "suggests.eps": "for each norm",
        "suggests.eps.linf": "the largest change of a pixel",
        "suggests.epochs": "of a training from scratch",
        "suggests.augmentation": "for FairAT's hard examples",
        "suggests.mean": "of each channel",
        "suggests.std": "of each channel",
    },
    "model": {
        "width": "channels of the first stage",
        "channels_last": "the memory format, faster where convolutions are",
        "mean": "subtracted from each channel",
        "std": "each channel is divided by it",
        "name": "as timm calls it",
        "image_size": "pixels a side; null: those of the data",
    },
    "attack": {
        "norm": "linf or l2",
        "eps": "the radius, in units of images in [0,1]: the threat model of every evaluation",
        "steps": "gradient steps",
        "step": "the size of a step: a number, or a multiple of eps",
    },
    "objective": {"beta": "the weight of the divergence", "label_smoothing": "in [0, 1)"},
    "awp": {"gamma": "the size of the perturbation, relative to each tensor", "warmup_epochs": "epochs without it"},
    "averaging": {"decay": "the weight of the average at each update"},
    "head": {"strengths": "the strengths that are tried on validation"},
    "optim": {
        "lr": "the learning rate: the first one, or for onecycle the highest",
        "momentum": "of SGD",
        "weight_decay": "on all weights",
        "nesterov": "whether the momentum is Nesterov's",
        "gamma": "the factor of the learning rate at each milestone",
        "betas": "of Adam's two averages",
    },
    "schedule": {"gamma": "the factor of the learning rate at each milestone"},
    "trainer": {
        "accelerator": "cpu, cuda, or auto for a GPU where there is one",
        "devices": "processes, a GPU each, or on a CPU some cores each",
        "strategy": "auto, or ddp for several processes",
        "num_nodes": "machines",
        "max_epochs": "epochs of the training",
        "accumulate_grad_batches": "batches to a step of the optimiser",
        "gradient_clip_val": "the largest norm of the gradient",
    },
    "logger": {
        "version": "the name of its folder in the run's",
        "project": "the project of the run",
        "entity": "the user or team of the run",
        "group": "the group of the run",
        "notes": "a note on the run",
    },
    "suite": {"suite": "its name", "severities": "of the corruptions, 1 to 5"},
}


def configuration() -> str:
    """The page of every key: its default and its sentence, group by group, from the comments in `conf/`."""
    parts = [
        "# Reference of the configuration",
        "Every key is set on the command line as `key=value`, and every option of a group as `group=option`. The defaults and "
        "sentences on this page are those of the files in `conf/`. `--cfg job` prints the composed configuration of a command.",
        "## Values of every run",
        table(CONF / "config.yaml"),
        "## Values of an evaluation",
        "Of `python -m fairat_lightning.evaluate`.",
        table(CONF / "evaluate.yaml"),
    ]
    chosen = defaults()
    for group, what in GROUPS.items():
        parts += [f"(config-{group})=\n## {group}", f"{what} {default(group, chosen.get(group))}"]
        for path in sorted((CONF / group).glob("*.yaml")):
            parts += [f"(config-{group}-{path.stem})=\n### {group}={path.stem}", introduction(path), table(path)]
    return "\n\n".join(part for part in parts if part) + "\n"


def defaults() -> dict[str, str | None]:
    """The option of each group that a command takes when none is named: in a training, and for `suite` in an evaluation."""
    listed = [yaml.safe_load((CONF / file).read_text())["defaults"] for file in ("evaluate.yaml", "config.yaml")]
    return {group: option for part in listed for choice in part if isinstance(choice, dict) for group, option in choice.items()}


def default(group: str, option: str | None) -> str:
    return f"The default is `{group}={option}`." if option else "None is taken unless it is named."


def introduction(path: Path) -> str:
    """The comment at the head of a file."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines += [line.lstrip("# ")] if not line.startswith("# @package") else []
    return escaped(" ".join(lines))


@cache
def rows(path: Path) -> list[list[str]]:
    """Every key of a file with its value and comment."""
    rows: list[list[str]] = []
    above: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        found = re.match(r"( *)([\w.]+):(?: +(.*?))?(?: *(?<!\S)# *(.*))?$", line)
        if line.startswith(("hydra:", "  - ", "#")) or not found:
            more = re.match(r" {8,}# *(.*)", line)
            if more and rows:
                rows[-1][2] += f" {more[1]}"
            if line.startswith("hydra:"):
                break
            continue
        indent, key, value, comment = len(found[1]), found[2], found[3] or "", found[4] or ""
        above = [(depth, name) for depth, name in above if depth < indent]
        if key == "defaults" or key.startswith("_"):
            if key == "_target_":
                rows.append([".".join([*(n for _, n in above), key]), value, comment or "the class or function that is built"])
            continue
        if not value:
            above.append((indent, key))
            if comment:
                rows.append([".".join(name for _, name in above), "", comment])
            continue
        rows.append([".".join([*(n for _, n in above), key]), value, comment])
    return rows


def table(path: Path) -> str:
    """The keys of a file as a table; a recipe's keys are explained by the groups that they belong to."""
    found, group = rows(path), path.parent.name
    if not found:
        return ""
    if group == "experiment":
        return "\n".join(["| key | value |", "|---|---|", *(f"| `{key}` | {code(value)} |" for key, value, _ in found)])
    body = [f"| `{key}` | {code(value)} | {escaped(comment or sentence(group, key))} |" for key, value, comment in found]
    return "\n".join(["| key | default | |", "|---|---|---|", *body])


def sentence(group: str, key: str) -> str:
    """What a key without a comment of its own is: as another option of its group says, or as it is the same in all of them."""
    if key in SAME.get(group, {}):
        return SAME[group][key]
    others = (row for path in sorted((CONF / group).glob("*.yaml")) for row in rows(path))
    return next((comment for name, _, comment in others if name == key and comment), "")


def code(value: str) -> str:
    return f"`{value.replace('|', chr(92) + '|')}`" if value else ""


def escaped(text: str) -> str:
    return re.sub(r"([<>|*_$])", r"\\\1", text)


class Facts(SphinxDirective):
    """`{facts} METHOD`: cost, our figures, published figures, and where the file and its values are."""

    required_arguments = 1
    option_spec = {"published": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        for path in (RESULTS / "cost.json", *sorted(RESULTS.glob("*-night/table.json")), DIGITS):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(facts(self.arguments[0], self.options.get("published", "").split()))


DIGITS = RESULTS / "leaderboard-digits" / "table.json"
WITH_EVERY_METHOD = ("awp", "averaging", "head")  # groups that have a page of their own


def facts(method: str, published: list[str]) -> str:
    costs = {row["name"].removeprefix("pgd_at "): row for row in json.loads((RESULTS / "cost.json").read_text())["rows"]}
    cost, label, anchor = "", f"method={method}", f"config-method-{method}"
    if method in costs:
        step, epoch = (costs[method][part] for part in ("step", "epoch"))
        of = "of plain training with the same objective"
        cost = f"**Cost.** A step takes {step:.2f} times, an epoch {epoch:.2f} times that {of} (measured, `make bench`). "
    if method in WITH_EVERY_METHOD:
        label, anchor = f"{method}=", f"config-{method}"
    parts = [f"{cost}Every value of `{label}` is in the {{ref}}`reference of the configuration <{anchor}>`."]
    parts.append(f"**Our figures.**\n\n{ours(method)}")
    if (study := RESULTS / f"{method}-digits" / "table.json").exists():
        shown = measured("without one part, on digits: average / worst class", json.loads(study.read_text())["rows"])
        parts.append(f"**What each part adds.**\n\n{shown}")
    if published:
        parts.append(f"**Published figures**, not ours, in percent.\n\n{quoted(published)}")
    return "\n\n".join(parts)


def ours(method: str) -> str:
    """The rows of the night's records that this method trained; where there is none, the rows of a leaderboard on digits.

    Rows of one seed are of the records that hold these until another seed is finished, unless the others have them.
    """
    found, known = [], set()
    for path in (*sorted(RESULTS.glob("*-night/table.json")), *sorted(RESULTS.glob("*-night-seed0/table.json"))):
        record = json.loads(path.read_text())
        by_label = {run["label"]: run["command"] for run in record["runs"]}
        for row in record["rows"]:
            key = (path.parent.name.removesuffix("-seed0"), row["label"])
            if shows(by_label[row["label"]], method) and key not in known:
                known.add(key)
                figures = cells(row, ("clean", "pgd20", "apgd"))
                found.append(f"| {row['label']} ({path.parent.name}, seeds: {row['runs']}) | {' | '.join(figures)} |")
    if found:
        head = "| percent, average / worst class | clean | PGD-20 | APGD |\n|---|---:|---:|---:|\n"
        return head + "\n".join(found) + "\n\nBudget `night`, see [Reproducing the papers](../reproducing.md)."
    alone = method in WITH_EVERY_METHOD
    record = json.loads(DIGITS.read_text())
    by_label = {run["label"]: run["command"] for run in record["runs"]}
    if rows := [row for row in record["rows"] if shows(label := by_label[row["label"]], method) and (alone or plain(label))]:
        (usual,) = cells(next(row for row in record["rows"] if row["label"] == "PGD-AT"), ("pgd20",))
        return (
            f"{measured('percent, average / worst class', rows)}\n\nOn the embedded digits, 30 epochs from scratch "
            f"(`results/{DIGITS.parent.name}/table.md`), where PGD-AT has {usual} under PGD-20. "
            "`budget=night` has not run it yet."
        )
    return "Not measured yet: `budget=night` has not run it."


def measured(what: str, rows: list[dict[str, Any]]) -> str:
    """Rows of a study on digits as a table."""
    lines = [f"| {row['label']} (seeds: {row['runs']}) | {' | '.join(cells(row, ('clean', 'pgd20', 'cw20')))} |" for row in rows]
    return "\n".join([f"| {what} | clean | PGD-20 | CW-20 |", "|---|---:|---:|---:|", *lines])


def shows(command: str, page: str) -> bool:
    """Whether a run belongs on the page of a method, or of a group that goes with every method."""
    return f" {page}=" in command if page in WITH_EVERY_METHOD else trained_by(command) == page


def plain(command: str) -> bool:
    """Whether a run is the method alone, with no average, weight perturbation or head that the method does not bring."""
    return not re.search(r" (awp|averaging|head)=", command)


def trained_by(command: str) -> str:
    """The method that a command trained: named, or its recipe's."""
    given = dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)
    if "method" in given:
        return given["method"]
    recipe = (CONF / "experiment" / f"{given['experiment']}.yaml").read_text()
    return re.findall(r"override /method: (\w+)", recipe)[0] if given.get("method.radius") != "0" else "pgd_at"


def cells(row: dict[str, Any], attacks: tuple[str, ...]) -> list[str]:
    return [f"{percent(row, f'{name}_average')} / {percent(row, f'{name}_worst')}" for name in attacks]


def percent(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return f"{100 * value['mean']:.1f}" if value and value["mean"] is not None else "–"


PUBLISHED = {"clean": "clean", "pgd20": "PGD-20", "pgd": "PGD", "autoattack": "AutoAttack", "gain": "gain in points"}


def quoted(names: list[str]) -> str:
    """Published rows, average / worst class, each with its network, its source and the source's note."""
    found = []
    for name in names:
        file, _, key = name.partition(".")
        source = yaml.safe_load((ROOT / "fairat_lightning/report/published_figures" / f"{file}.yaml").read_text())
        found.append((source, source["rows"][key]))
    parts = [part for part in PUBLISHED if any(part in row for _, row in found)]
    lines = [
        f"| average / worst class | {' | '.join(PUBLISHED[part] for part in parts)} | source |",
        f"|---|{'---:|' * len(parts)}---|",
    ]
    for source, row in found:
        figures = [f"{(row.get(part) or {}).get('average', '–')} / {(row.get(part) or {}).get('worst', '–')}" for part in parts]
        protocol = {**source["protocol"], **row.get("protocol", {})}
        where = ", ".join(str(protocol[key]) for key in ("data", "model") if key in protocol)
        cite = f"[{source['cite']}]({source['url']})" if "url" in source else source["cite"]
        note = f"; {row['note']}" if "note" in row else ""
        lines.append(f"| {row['label']} ({where}) | {' | '.join(figures)} | {cite}{note} |")
    return "\n".join(lines)


def write_configuration(app: Sphinx) -> None:
    path, text = Path(app.srcdir) / "configuration.md", configuration()
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


class Speed(SphinxDirective):
    """`{speed}`: images a second of a processor, what an hour of it gives, and the model of it, from `results/speed.json`."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(RESULTS / "speed.json"))
        return self.parse_text_to_nodes(speed(json.loads((RESULTS / "speed.json").read_text())))


def speed(record: dict[str, Any]) -> str:
    """The record of `studies/speed.py` as a table, a column a precision and number of cores, and a line for each model."""
    kinds = list(dict.fromkeys((cell["precision"], cell["cores"]) for cell in record["cells"]))
    by_cell = {tuple(c[k] for k in ("precision", "cores", "width", "attack")): c["images_per_second"] for c in record["cells"]}
    names = [f"{'float32' if p == '32-true' else 'bf16'}, {n} core{'s' * (n > 1)}" for p, n in kinds]
    lines = [f"| width | attack | {' | '.join(names)} |", f"|---:|---|{'---:|' * len(kinds)}"]
    for width, attack in dict.fromkeys((cell["width"], cell["attack"]) for cell in record["cells"]):
        rates = [by_cell.get((*kind, width, attack)) for kind in kinds]
        shown = ["–" if rate is None else f"{rate:.3g} ({3600 * rate / 50_000:.2g})" for rate in rates]
        lines.append(f"| {width} | `{attack}` | {' | '.join(shown)} |")
    fits = ["| | rate, GFLOP/s | overhead, µs | largest error |", "|---|---:|---:|---:|"]
    for name, model in zip(names, record["models"], strict=True):
        fits.append(f"| {name} | {model['rate'] / 1e9:.0f} | {1e6 * model['overhead']:.0f} | {100 * model['error']:.0f} % |")
    batches, rounds = ({str(cell[key]) for cell in record["cells"]} for key in ("batch_size", "rounds"))
    how = f"Batches of {' and '.join(sorted(batches))}, medians of {' and '.join(sorted(rounds))} steps"
    where = f"{record['hardware']['cpu']}, torch {record['versions']['torch']}"
    return "\n".join([*lines, "", *fits, "", f"{how}; {where}."])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("facts", Facts)
    app.add_directive("speed", Speed)
    app.connect("builder-inited", write_configuration)
    return {"parallel_read_safe": True}
