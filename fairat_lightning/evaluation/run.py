"""One evaluation: build the classifier and the suite, run it, write the record.

<run>/evaluation/<name>/   config.yaml, run.json, metrics.json, samples.jsonl, classes.png, as in the run's own folder
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from fairat_lightning.config.build import build_part
from fairat_lightning.config.classifier import Classifier, load
from fairat_lightning.config.compose import plain
from fairat_lightning.evaluation.attacks import ARITHMETIC
from fairat_lightning.evaluation.audit import Audit, Findings, Suite
from fairat_lightning.evaluation.devices import batch_of, check_devices, device_of, threads_of_each
from fairat_lightning.evaluation.suites import suite_of
from fairat_lightning.metrics import split_errors, worst_among
from fairat_lightning.pretrained import located
from fairat_lightning.record.fingerprint import fingerprint, of_evaluated
from fairat_lightning.record.identity import evaluation_identity
from fairat_lightning.record.journal import NAME, Journal, Share, check_finished
from fairat_lightning.record.reader import read_facts, read_metrics
from fairat_lightning.record.writer import close_folder, evaluation_name, open_evaluation
from fairat_lightning.report import Group, Run, class_bars, class_table, eps_curve, save
from fairat_lightning.running.machine import threads
from fairat_lightning.running.terminal import short
from fairat_lightning.running.workers import workers
from fairat_lightning.settings import reachable

VERDICTS = "0.1.0"  # the version that last changed a verdict: evaluations of later ones continue those of earlier ones
WIDE = 8  # columns that fit a terminal
MARKS = {True: "[green]passed[/]", False: "[bold red]FAILED[/]", None: "[yellow]not run[/]"}


class Busy(ValueError):
    """Another process is writing to the folder."""


def evaluate(cfg: DictConfig) -> None:
    """Evaluate what the checked configuration says, or show the evaluation if it is finished. Raises what WRONG_INPUT lists."""
    check_devices(cfg)
    with threads(threads_of_each(cfg.devices)):
        _evaluate(cfg)


def _evaluate(cfg: DictConfig) -> None:
    given = plain(cfg)
    judged = load(cfg, None if cfg.overwrite else lambda run: _folder(cfg, run))
    suite = suite_of(cfg)
    folder = _folder(cfg, judged.run)
    if cfg.batch_size == "auto":
        cfg.batch_size = batch_of(judged, device_of(cfg), folder if not cfg.overwrite else None)
    given["batch_size"] = cfg.batch_size
    header = _header(cfg, judged, suite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            try:
                _finish(cfg, judged, folder, header, suite, given)
            finally:
                (folder / ".lock").unlink(missing_ok=True)
    except Timeout:
        raise Busy(f"{folder} is being evaluated by another process: wait until it ends, or set another name=") from None
    except OSError as error:
        if cfg.overwrite or read_metrics(folder) is None:
            raise ValueError(f"{folder} cannot be written to: {error.strerror}") from error
        check_finished(folder / NAME, header)
    show(folder)


def _finish(
    cfg: DictConfig, judged: Classifier, folder: Path, header: dict[str, Any], suite: Suite, given: dict[str, Any]
) -> None:
    """Evaluate what the folder lacks, and close its record."""
    journal = open_evaluation(folder, evaluation_identity(plain(cfg)), header, overwrite=cfg.overwrite, **_brought(judged))
    if read_metrics(folder) is not None:
        print("This evaluation is finished. Set overwrite=true to run it again.\n")
        return
    with workers(cfg.devices - 1, judge_share, folder, given) as check:
        audit = _audit(cfg, judged, journal if cfg.devices == 1 else Share(journal, 0, cfg.devices, check))
        findings = run_suite(audit, suite)
    journal.settle(audit.in_order())
    record_findings(folder, cfg, audit, findings, seconds=None if audit.journal.begun else round(audit.progress.spent, 1))


def judge_share(rank: int, folder: Path, given: dict[str, Any]) -> None:
    """What process `rank` does of the evaluation that the command has begun in `folder`, with its configuration before `load`."""
    cfg: DictConfig = OmegaConf.create(given)
    torch.set_num_threads(threads_of_each(cfg.devices))
    if device_of(cfg) == "cuda":
        torch.cuda.set_device(rank)
    judged = load(cfg, lambda run: folder)
    suite = suite_of(cfg)
    try:
        journal = Journal(folder / NAME, _header(cfg, judged, suite))
        suite(_audit(cfg, judged, Share(journal, rank, cfg.devices)))
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to: {error.strerror}") from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ValueError(
            f"out of memory in process {rank + 1} of {cfg.devices}: set fewer devices or a smaller batch_size"
        ) from error


def _header(cfg: DictConfig, judged: Classifier, suite: Suite) -> dict[str, Any]:
    """All that the verdicts depend on; what cannot be evaluated is refused here, before anything is written."""
    suite.check(*judged.images)
    build_part(cfg, "attack")
    config = evaluation_identity(plain(cfg))
    return {  # not where the weights lie, but what they are
        "config": {key: value for key, value in config.items() if key not in ("checkpoint", "name", "key")},
        "logits": judged.logits,
        "device": device_of(cfg),
        "version": VERDICTS,
        "weights": fingerprint(judged.net.state_dict()),
        "images": of_evaluated(*judged.images),
        "torch": torch.__version__,
        **suite.versions,
    }


def _audit(cfg: DictConfig, judged: Classifier, journal: Journal) -> Audit:
    return Audit(
        *(judged.net, *judged.images, judged.data.classes),
        threat=build_part(cfg, "attack"),
        journal=journal,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        device=device_of(cfg),
    )


def _brought(judged: Classifier) -> dict[str, Any]:
    """What the record says of weights from elsewhere."""
    warning = {"warning": judged.warning} if judged.warning else {}
    return {"checkpoint": {"path": judged.cfg.checkpoint, **judged.facts, **warning}} if judged.facts else {}


def run_suite(audit: Audit, suite: Suite) -> Findings:
    """The findings of the suite; prints first what it evaluates, and on a terminal its progress."""
    size, eps = len(audit.labels), audit.threat.eps
    print(f"{size:,} images, {audit.threat.norm} eps {eps:.4g}, batches of {audit.batch_size}, {audit.device}", flush=True)
    if audit.journal.begun:
        print(f"resumed: {audit.journal.begun} finished batches are kept", flush=True)
    if not sys.stdout.isatty():
        return suite(audit)
    with Live(refresh_per_second=4, transient=True) as live:
        audit.progress.live = live
        return suite(audit)


def record_findings(folder: Path, cfg: DictConfig, audit: Audit, findings: Findings, *, seconds: float | None) -> None:
    """Write what was found; metrics.json last, whose presence says that the evaluation is finished.

    `seconds` is None where earlier sessions have taken some of them.
    """
    notes = [*findings.notes, *([f"These are {cfg.split} images, not test images."] if cfg.split != "test" else [])]
    if warning := read_facts(folder).get("checkpoint", {}).get("warning"):
        notes.append(f"Warning: {warning}.")
    counts = audit.labels.bincount(minlength=len(audit.classes)).tolist()
    asked = audit.classes if cfg.classes is None else list(map(str, cfg.classes))
    if empty := [name for name, count in zip(audit.classes, counts, strict=True) if not count and name in asked]:
        more = f" and {len(empty) - 20} more" if len(empty) > 20 else ""
        notes.append(
            f"There is no image of {', '.join(empty[:20])}{more}: no figure includes {'them' if len(empty) > 1 else 'it'}."
        )
    if cfg.classes is not None:
        notes.append(f"Only {', '.join(asked)}: no figure includes another class.")
    if cfg.samples_per_class is not None:
        other = "other " if cfg.in_full is not None else ""
        notes.append(f"Only {cfg.samples_per_class} image{'s' if cfg.samples_per_class > 1 else ''} of each {other}class.")
    if cfg.in_full is not None:
        full = [name for name in audit.classes if name in map(str, cfg.in_full)]
        findings.metrics.update({key: worst_among(found, full) for key, found in findings.metrics.items()})
        many = "All" if cfg.samples_in_full is None else f"Up to {cfg.samples_in_full}"
        notes.append(f"{many} images of {', '.join(full)}: the worst class is the worst of these{_below(findings)}.")
    split_errors(findings.metrics)
    shown = {key: findings.metrics[key] for key in findings.headline or list(findings.metrics)[:3]}
    save(_picture(folder.name, findings, shown), folder / "classes.png")
    close_folder(
        folder,
        findings.metrics,
        suite=cfg.suite.suite,
        threat={"norm": audit.threat.norm, "eps": audit.threat.eps},
        batch_size=audit.batch_size,
        images=len(audit.labels),
        judged_in=ARITHMETIC,
        classes=audit.classes,
        titles=findings.titles,
        headline=findings.headline,
        notes=notes,
        checks=[asdict(check) for check in findings.checks],
        seconds=seconds,
        **findings.extra,
    )


def _picture(name: str, findings: Findings, shown: dict[str, Any]) -> Figure:
    """The classes under the attacks `shown`; of a sweep a curve for each class, over every eps."""
    if (curve := findings.extra.get("curve")) is None:
        return class_bars({name: shown}, tuple(shown), findings.titles)
    keys = dict(zip(curve["eps"], curve["keys"], strict=True))
    return eps_curve(Group(name, [Run(Path(name), summaries=findings.metrics, curves={"": keys})]), "")


def _below(findings: Findings) -> str:
    """Which other classes have less than the worst, on the few images of theirs."""
    found = findings.metrics[(findings.headline or list(findings.metrics))[-1]]
    below = [name for name, accuracy in found["per_class"].items() if accuracy is not None and accuracy < found["worst"]]
    return f"; lower on their smaller samples: {', '.join(below)}" if below else ""


def show(folder: Path) -> None:
    """Print what a finished evaluation found, failed checks first, and where its files are."""
    console, metrics = Console(), read_metrics(folder)
    assert metrics is not None
    run = read_facts(folder)
    if failed := [check for check in run["checks"] if check["passed"] is False]:
        console.print(
            f"[bold red]{len(failed)} of {len(run['checks'])} sanity checks failed: do not trust these robust accuracies"
        )
        for check in failed:
            console.print(Text(f"  {check['name']}: {check['detail']}", style="red"))
    keys = list(run["titles"]) if len(run["titles"]) <= WIDE or not run["headline"] else run["headline"]
    wide = WIDE if run["headline"] else WIDE // 2  # a sweep has a column for every eps
    for k in range(0, len(keys), wide):
        console.print(class_table({folder.name: metrics}, keys[k : k + wide], run["titles"]))
    for check in run["checks"]:
        detail = escape(f"({check['detail']})")
        console.print(f"{MARKS[check['passed']]}  {check['name']} [dim]{detail}[/]", highlight=False, soft_wrap=True)
    for note in run["notes"]:
        console.print(Text(note, style="dim"), soft_wrap=True)
    for name, what in (("metrics.json", "figures"), (NAME, "images"), ("classes.png", "picture")):
        console.print(f"[dim]{what:8}[/] {escape(str(short(folder.absolute() / name)))}", soft_wrap=True, highlight=False)


def _folder(cfg: DictConfig, run: Path | None) -> Path:
    """Where the evaluation goes; one of another checkpoint of a run than its best, or of other images, says so in its name."""
    weights = located(cfg.checkpoint)
    name = evaluation_name(cfg.name, cfg.suite.suite, weights if run is not None and weights.is_file() else None, cfg.split)
    above = run or Path("runs") / f"audit-{weights.stem}" if cfg.to is None else Path(cfg.to)
    return reachable(above / "evaluation" / name)
