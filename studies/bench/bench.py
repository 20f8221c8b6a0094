"""What a training step costs, each row a ratio measured side by side in one run: `make bench`.

    python studies/bench/bench.py [--to FOLDER] [--rounds 3] [--parts abcdefghijklm] [--width 64] [--batch-size 128]
    python studies/bench/bench.py --quick [--to FOLDER]     each goal, its figure and whether it is met

The sides of a comparison are processes of their own, so that each keeps its own memory and threads (`side.py`). They take one
step in turn, round after round, the first of which warms them up; a row is the ratio of the medians, with the rounds' spread.

    a  published code, re-stated, against ours            e  batch size, classes, width, attack steps
    b  a loop of the usual packages against ours          f  FLOP/s as a share of the matrix products', convolutions
    c  closed-form class weights against a solver         g  an epoch of CIFAR-10, by extrapolation
    d  ours without one of its optimisations              h  worst-class robust accuracy against training time, an attack each
    i  what FAAL's weights, FairAT's scoring and the loader take of a step
    j  the validation of an epoch against its training, on CIFAR-10 with the default values
    k  an evaluation in one process of one thread against two such processes, or one GPU against two; `--evaluate` says which
    l  a command's start to its first training step against `import torch, lightning`; `--help`
    m  images in a file against images in memory: time and anonymous memory

Part h trains: by default on the embedded digits, with `--train "data=cifar10 data.root=... trainer=gpu ..."` anything else; its
picture lies beside the record, FOLDER/bench-cpu.json or FOLDER/bench-cuda.json.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from fairat_lightning.record.atomic_write import write_json
from fairat_lightning.record.environment import environment
from fairat_lightning.report.style import COLOURS, MARKERS, save, styled

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from cost import clock  # noqa: E402

TRAINED, MONITORED = 47_000, 600  # images of CIFAR-10 in an epoch: conf/data/cifar10.yaml
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Side:
    """A process that takes steps when asked."""

    def __init__(self, spec: dict[str, Any], path: str = "", *, peak: bool = False):
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH", "")]))}
        command = [sys.executable, str(HERE / "side.py"), json.dumps(spec)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=variables
        )
        self.anonymous = 0
        if peak:
            threading.Thread(target=self.watch, daemon=True).start()
        self.missing = self.read().get("missing")

    def watch(self) -> None:
        """Keep the most bytes that the process ever holds and no file does, its RssAnon (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status")
        with suppress(OSError):  # it has ended
            while found := re.search(r"RssAnon:\s+(\d+)", status.read_text()):
                self.anonymous = max(self.anonymous, 1024 * int(found[1]))
                time.sleep(0.05)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        self.errors.seek(0)
        raise SystemExit(f"a side ended: {self.errors.read()[-2000:]}")

    def ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def ours(*words: str, o: argparse.Namespace, method: str = "pgd_at", classes: int = 10, **more: Any) -> dict[str, Any]:
    """The specification of our side: a method on a synthetic set of CIFAR-10's shape."""
    per_class = max(2, 10 * o.batch_size // classes)
    data = ["data=synthetic", "data.image_size=32", f"data.load.num_classes={classes}"]
    data += [f"data.load.train_per_class={per_class + 1}"]
    data += ["data.load.test_per_class=1", "data.val_per_class=1", f"data.batch_size={o.batch_size}", "trainer=auto"]
    data += ["model=preactresnet18", f"model.width={o.width}", "data.suggests.augmentation=randaugment"]
    return {"kind": "ours", "words": [*data, f"method={method}", *words], **more}


def published(method: str, o: argparse.Namespace) -> dict[str, Any]:
    return {"kind": "published", "method": method, "width": o.width, "batch_size": o.batch_size, "classes": 10}


def compare(sides: dict[str, Side], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The answers of every side to `rounds` steps, in turn; the first step of each warms it up."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            answer = side.ask("step")
            if turn:
                answers[name].append(answer)
    return answers


def seconds(answers: list[dict[str, Any]]) -> list[float]:
    return [answer["seconds"] for answer in answers]


def row(part: str, name: str, above: list[float], below: list[float], **more: Any) -> dict[str, Any]:
    """How many times as long `above` takes as `below`."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    times = {"seconds": median(above), "base_seconds": median(below), "rounds": len(above)}
    ratio = {"ratio": median(above) / median(below), "low": min(ratios), "high": max(ratios)}
    return {"part": part, "name": name, **ratio, **times, **more}


def against(
    part: str, specs: dict[str, dict[str, Any]], base: dict[str, Any], rounds: int, path: str = ""
) -> list[dict[str, Any]]:
    """A row for each specification, its time divided by that of `base`; two processes at a time, as memory allows."""
    rows = []
    for name, spec in specs.items():
        side = Side(spec, path)
        if side.missing:
            rows.append({"part": part, "name": name, "not_run": side.missing})
        else:
            other = Side(base)
            theirs, mine = compare({"theirs": side, "mine": other}, rounds).values()
            rows.append(row(part, name, seconds(theirs), seconds(mine)))
            other.close()
            print(f"{part}  {name}  {rows[-1]['ratio']:.2f}", flush=True)
        side.close()
    return rows


def part_a(o: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for method in o.methods:
        sides = {
            f"{method}: published": Side(published(method, o)),
            f"{method}: ours in float32": Side(ours("trainer.precision=32-true", o=o, method=method)),
            "ours": Side(ours(o=o, method=method)),
        }
        missing = next(iter(sides.values())).missing
        answers = {} if missing else compare(sides, o.rounds)
        for side in sides.values():
            side.close()
        if missing:
            rows.append({"part": "a", "name": f"{method}: published / ours", "not_run": missing})
            continue
        theirs, plain, mine = (seconds(a) for a in answers.values())
        rows.append(row("a", f"{method}: published / ours", theirs, mine))
        rows.append(row("a", f"{method}: published / ours in float32", theirs, plain))
    if o.compile:
        compiled = ours(o=o, method="faal", compile=True)
        rows += against("a", {"faal: published / ours, compiled": published("faal", o)}, compiled, o.rounds)
    return rows


def part_b(o: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, "torchattacks", "requests"]
        if subprocess.run(pip, capture_output=True).returncode:
            return [{"part": "b", "name": "torchattacks / ours", "not_run": "torchattacks did not install"}]
        spec = {**published("pgd_at", o), "kind": "torchattacks"}
        return against("b", {"torchattacks / ours": spec}, ours(o=o), o.rounds, place)


def part_c(o: argparse.Namespace) -> list[dict[str, Any]]:
    from published import solve

    from fairat_lightning.dro import kl_worst_case

    rows = []
    torch.set_num_threads(1)
    for classes in (10, 100, 1000):
        closed, solver = [], []
        for k in range(o.rounds + 3):
            scores = torch.rand(classes, generator=torch.Generator().manual_seed(k)).double() - 0.7
            before = clock()
            mine = kl_worst_case(scores, 0.5)
            middle = clock()
            theirs = solve(scores.tolist(), 0.5)
            after = clock()
            assert float((mine @ scores - torch.as_tensor(theirs) @ scores).abs()) < 1e-3
            if k >= 3:
                closed.append(middle - before)
                solver.append(after - middle)
        rows.append(row("c", f"{classes} classes: cvxpy / closed form", solver, closed))
    return rows


def part_d(o: argparse.Namespace) -> list[dict[str, Any]]:
    switches = {
        "bfloat16": ours("trainer.precision=32-true", o=o),
        "bfloat16 in crafting": ours("attack.precision=float32", o=o),
        "channels-last": ours("model.channels_last=false", o=o),
        "image-only gradients in the attack": ours(o=o, off="image-only gradients"),
        "fused optimiser": ours(o=o, off="fused optimiser"),
    }
    if DEVICE == "cpu":
        switches["kept memory"] = ours(o=o, off="keep_memory")
        switches["all cores"] = ours(o=o, threads=1)
    rows = against("d", {f"without {name}": spec for name, spec in switches.items()}, ours(o=o), o.rounds)
    return rows + (against("d", {"compile=true": ours(o=o, compile=True)}, ours(o=o), o.rounds) if o.compile else [])


def part_e(o: argparse.Namespace) -> list[dict[str, Any]]:
    def changed(**values: Any) -> argparse.Namespace:
        return argparse.Namespace(**{**vars(o), **values})

    o = changed(batch_size=o.batch_size // 2)
    sweeps = {
        **{f"batch of {n}": ours(o=changed(batch_size=n)) for n in (o.batch_size // 2, 4 * o.batch_size)},
        **{f"{c} classes, FAAL": ours(o=o, method="faal", classes=c) for c in (100, 1000)},
        f"width {o.width // 4}": ours(o=changed(width=o.width // 4)),
        **{f"attack={name}": ours(f"attack={name}", o=o) for name in ("fgsm_rs", "n_fgsm", "pgd2", "pgd3")},
    }
    return against("e", {f"{name} / batch of {o.batch_size}": spec for name, spec in sweeps.items()}, ours(o=o), o.rounds)


def matrix_rate(dtype: torch.dtype) -> float:
    """The best FLOP/s of a square matrix product of three sizes."""
    best = 0.0
    for n in (1024, 2048, 4096):
        a = torch.randn(n, n, device=DEVICE).to(dtype)
        for _ in range(4):
            before = clock()
            a @ a
            best = max(best, 2 * n**3 / (clock() - before))
    return best


def part_f(o: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for precision, dtype in (("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)):
        side = Side(ours(f"trainer.precision={precision}", o=o))
        answer = side.ask("count")
        counted = answer["flops"]
        taken = [side.ask("step")["seconds"] for _ in range(o.rounds)]
        operators = side.ask("profile")["rows"]
        side.close()
        rate = matrix_rate(dtype)
        share = [counted / t / rate for t in taken]
        facts = {"flops": counted, "bytes": answer["bytes"], "seconds": median(taken), "matrix_rate": rate}
        rows.append(
            {"part": "f", "name": f"{precision}: share of the matrix rate", "ratio": counted / median(taken) / rate, **facts}
        )
        rows[-1] |= {"low": min(share), "high": max(share)}
        convolutions = sum(part for name, part, _ in operators if "convolution" in name.lower())
        rows.append({"part": "f", "name": f"{precision}: convolutions' share of a step", "ratio": convolutions})
    return rows


def part_g(o: argparse.Namespace) -> list[dict[str, Any]]:
    side = Side(ours(o=o))
    taken = [side.ask("step")["seconds"] for _ in range(o.rounds + 1)][1:]
    side.close()
    steps = 50_000 // o.batch_size
    return [
        {
            "part": "g",
            "name": f"an epoch of 50,000 images: {steps} steps, not run but multiplied",
            "seconds": steps * median(taken),
        }
    ]


def part_h(o: argparse.Namespace) -> list[dict[str, Any]]:
    rows = [row for method in ("pgd_at", "faal") for row in trained(method, o)]
    if o.to:
        draw(rows, o.to / f"bench-{DEVICE}-attacks.png")
    return rows


def trained(method: str, o: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each attack: three trainings, whose time is that of the processor on a CPU."""
    rows = []
    kind = "train_cpu" if DEVICE == "cpu" else "train"
    for attack in ("fgsm_rs", "n_fgsm", "pgd2", "pgd3", "pgd10"):
        taken, worst, average, collapsed = [], [], [], []
        for seed in range(3):
            with tempfile.TemporaryDirectory() as place:
                words = [
                    f"method={method}",
                    f"attack={attack}",
                    f"seed={seed}",
                    f"hydra.run.dir={place}/run",
                    *o.train.split(),
                ]
                subprocess.run([sys.executable, "-m", "fairat_lightning", *words], check=True, capture_output=True)
                facts, metrics = (json.loads(Path(place, "run", name).read_text()) for name in ("run.json", "metrics.json"))
            taken.append(facts["seconds"][kind])
            collapsed.append(facts.get("collapsed_epoch"))
            worst.append(metrics["pgd20"]["worst"])
            average.append(metrics["pgd20"]["average"])
        facts = {
            "method": method,
            "attack": attack,
            "worst": worst,
            "average": average,
            "all_seconds": taken,
            "collapsed": collapsed,
        }
        name = f"{method} {attack}: worst {100 * sum(worst) / 3:.1f}, average {100 * sum(average) / 3:.1f}"
        rows.append({"part": "h", "name": name, "seconds": median(taken), **facts})
    return rows


@styled()
def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Worst-class accuracy under PGD-20 against training time, a point for each attack, with the range over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for k, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
        mine = sorted((r for r in rows if r["method"] == method), key=lambda r: r["seconds"])
        middle = [100 * sum(r["worst"]) / len(r["worst"]) for r in mine]
        lows = [m - 100 * min(r["worst"]) for m, r in zip(middle, mine, strict=True)]
        highs = [100 * max(r["worst"]) - m for m, r in zip(middle, mine, strict=True)]
        label = {"pgd_at": "PGD-AT", "faal": "FAAL"}.get(method, method)
        axes.errorbar(
            [r["seconds"] for r in mine], middle, [lows, highs], fmt=f"{MARKERS[k]}-", color=COLOURS[k], capsize=3, label=label
        )
        for r, m in zip(mine, middle, strict=True):
            axes.annotate(r["attack"], (r["seconds"], m), textcoords="offset points", xytext=(6, 5 if k else -12), fontsize=8)
    axes.set(
        xlabel="training, seconds" + (" of a processor" if DEVICE == "cpu" else ""),
        ylabel="worst class under PGD-20, %",
        ylim=(0, None),
    )
    axes.legend()
    save(figure, path)


def part_i(o: argparse.Namespace) -> list[dict[str, Any]]:
    from fairat_lightning.methods.parts.worst_case import WorstCase

    rows = []
    side = Side(ours(o=o, method="fairat"))
    answers = compare({"fairat": side}, o.rounds)["fairat"]
    step, batches = median(seconds(answers)), 10
    scoring = [side.ask("between")["seconds"] for _ in range(o.rounds)]
    side.close()
    epoch = [batches * step] * len(scoring)
    rows.append(row("i", "FairAT's scoring / an epoch's steps", scoring, epoch))
    fetching = [answer["fetching"] for answer in answers]
    rows.append(row("i", "waiting for the loader, with crop and flip / a step", fetching, seconds(answers)))
    for classes in (10, 100, 1000):
        block = WorstCase(classes, radius=0.5).to(DEVICE)
        logits, y = torch.randn(o.batch_size, classes, device=DEVICE), torch.randint(classes, (o.batch_size,), device=DEVICE)
        taken = []
        for _ in range(30):
            before = clock()
            block(logits, y)
            taken.append(clock() - before)
        rows.append(row("i", f"FAAL's weights of {classes} classes / a step", taken[10:], [step] * 20))
    return rows


def part_j(o: argparse.Namespace) -> list[dict[str, Any]]:
    parts = {attack: validation(attack, o) for attack in ("n_fgsm", "pgd10")}
    return [row("j", f"validation / an epoch of training, {attack}", *times) for attack, times in parts.items()]


def validation(attack: str, o: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of validating CIFAR-10 after an epoch and of training for that epoch, both from a part of it, in turn."""
    side = Side(ours("data.val_per_class=6", f"attack={attack}", o=o))
    judged, trained = 60, o.batch_size
    times: list[tuple[float, float]] = []
    for _ in range(o.rounds + 1):
        validating, step = (side.ask(what)["seconds"] for what in ("validation", "step"))
        times.append((validating * MONITORED / judged, step * TRAINED / trained))
    side.close()
    return [v for v, _ in times[1:]], [t for _, t in times[1:]]


def part_k(o: argparse.Namespace) -> list[dict[str, Any]]:
    name = "evaluate: one process / devices=2"
    if (torch.cuda.device_count() if DEVICE == "cuda" else os.cpu_count() or 1) < 2:
        return [{"part": "k", "name": name, "not_run": "this machine has one device"}]
    whole: dict[int, list[float]] = {1: [], 2: []}
    attacks: dict[int, list[float]] = {1: [], 2: []}
    verdicts = set()
    with tempfile.TemporaryDirectory() as place:
        for turn in range(o.rounds + 1):  # the first warms the disk up
            for devices in whole:
                words = [*o.evaluate.split(), f"devices={devices}", f"to={place}", "name=k", "overwrite=true"]
                before = clock()
                command = [sys.executable, "-m", "fairat_lightning.evaluate", *words]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
                taken, folder = clock() - before, Path(place, "evaluation", "k")
                verdicts.add((folder / "samples.jsonl").read_bytes())
                if turn:
                    whole[devices].append(taken)
                    attacks[devices].append(json.loads((folder / "run.json").read_text())["seconds"])
    assert len(verdicts) == 1, "one process and two differ in a verdict"
    facts = {"evaluate": o.evaluate}
    rows = [row("k", f"{name}, from start to end", whole[1], whole[2], **facts)]
    return [*rows, row("k", f"{name}, from the first batch to the last", attacks[1], attacks[2], **facts)]


def part_l(o: argparse.Namespace) -> list[dict[str, Any]]:
    from quick import slowest_help, start_up

    first = row("l", "start-up to the first training step / import torch, lightning", *start_up(o.rounds))
    return [first, {"part": "l", "name": "--help of the slowest command", "seconds": slowest_help()}]


def part_m(o: argparse.Namespace) -> list[dict[str, Any]]:
    """Images of 64x64 from a file and from memory, and a small set from memory, each as a small network trains on them."""
    network = ["model=preactresnet18", "model.width=8", "method=pgd_at", "attack=fgsm_rs", "trainer=auto"]
    kinds = {"small": ("few", True), "memory": ("many", True), "file": ("many", False)}
    with tempfile.TemporaryDirectory(dir=o.disk) as name:
        place, sides = Path(name), {}
        make_pictures(place, {"few": 2000, "many": o.images})
        for kind, (folder, in_memory) in kinds.items():
            words = [*network, "data=folder", "data.image_size=64", f"data.batch_size={o.batch_size}"]
            words += [f"data.root={place}/{folder}", f"data.cache={place}/cache", f"data.in_memory={str(in_memory).lower()}"]
            sides[kind] = Side({"kind": "ours", "words": words, "batches": 1}, peak=True)
        steps = compare(sides, 10 * o.rounds)
        small = sides.pop("small")
        small.close()
        epochs: dict[str, list[float]] = {kind: [] for kind in sides}
        for turn in range(o.rounds + 1):
            for kind, side in sides.items():
                taken = side.ask("reading")["seconds"]
                epochs[kind] += [taken] if turn else []
        for side in sides.values():
            side.close()
    above = {kind: side.anonymous - small.anonymous for kind, side in sides.items()}
    each = {f"images_per_second_{kind}": o.batch_size / median(seconds(steps[kind])) for kind in sides}
    held = f"{above['file'] / 1e9:.2f} and {above['memory'] / 1e9:.2f} GB"
    facts = {"ratio": above["file"] / above["memory"], **{f"bytes_{kind}": value for kind, value in above.items()}}
    which = "from a file / from memory"
    return [
        row("m", f"{o.images:,} images, a step: {which}", seconds(steps["file"]), seconds(steps["memory"]), **each),
        row("m", f"their batches alone, an epoch: {which}", epochs["file"], epochs["memory"]),
        {"part": "m", "name": f"peak of RssAnon above a small set's: {held}, {which}", **facts},
    ]


def make_pictures(place: Path, folders: dict[str, int]) -> None:
    """Folders of so many PNG 64x64 to train on, in ten classes, which are links to 2,000 different ones, and 100 to test on."""
    random = np.random.RandomState(0)
    for k in range(2000):
        coarse = Image.fromarray(random.randint(0, 256, (8, 8, 3)).astype(np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(place / f"{k}.png")
    for folder, number in folders.items():
        for part, count in (("train", number), ("test", 100)):
            for k in range(count):
                path = place / folder / part / f"class_{k % 10}" / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(place / f"{k % 2000}.png", path)


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("", "", "ratio", "spread", "s", "of s", title="Times as long", title_justify="left")
    for r in rows:
        if "not_run" in r:
            table.add_row(r["part"], r["name"], "–", r["not_run"][:60])
            continue
        number = (lambda v: f"{100 * v:.1f} %") if r["part"] in "fij" else (lambda v: f"{v:.2f}")
        spread = f"{number(r['low'])} to {number(r['high'])}" if "low" in r else ""
        base = f"{r['base_seconds']:.3g}" if "base_seconds" in r else ""
        taken = f"{r['seconds']:.3g}" if "seconds" in r else ""
        table.add_row(r["part"], r["name"], number(r["ratio"]) if "ratio" in r else "", spread, taken, base)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="abcdefghijklm")
    parser.add_argument("--train", default="data=digits", help="words for the trainings of part h")
    parser.add_argument(
        "--evaluate",
        default="checkpoint=pretrained:digits_faal suite=apgd suite.targets=3 batch_size=20",
        help="words for the evaluations of part k",
    )
    parser.add_argument("--images", type=int, default=200_000, help="how many part m trains on")
    parser.add_argument("--disk", help="a folder for the 5 GB that part m writes for a while")
    parser.add_argument("--methods", nargs="+", default=["faal", "fairat", "pgd_at", "trades"], help="of part a")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--compile", action="store_true", help="also a compiled network in parts a and d, whose first step takes minutes"
    )
    parser.add_argument("--quick", action="store_true", help="each goal, its figure and whether it is met")
    o = parser.parse_args()
    if unknown := sorted({part for part in o.parts if f"part_{part}" not in globals()}):
        parser.error(f"--parts={o.parts}: there is no part {', '.join(unknown)}")
    if o.to:
        o.to.mkdir(parents=True, exist_ok=True)
    facts = {k: v for k, v in environment(0).items() if k != "command"}
    facts["command"] = " ".join(["python", *sys.argv])
    if o.quick:
        from quick import run_quick

        goals = run_quick()
        if o.to:
            write_json(o.to / "quick.json", {"rows": goals, **facts})
        return
    rows: list[dict[str, Any]] = []
    for part in o.parts:
        found = globals()[f"part_{part}"](o)
        rows += found
        show(found, Console())
    if o.to:
        path = o.to / f"bench-{DEVICE}.json"
        before = json.loads(path.read_text())["rows"] if path.exists() else []
        made = {r["name"] for r in rows}
        kept = [r for r in before if r["part"] not in o.parts or (r["part"] == "a" and r["name"] not in made)]
        write_json(path, {"rows": sorted([*kept, *rows], key=lambda r: r["part"]), **facts})
        print(path)


if __name__ == "__main__":
    main()
