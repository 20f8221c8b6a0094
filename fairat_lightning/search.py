"""Search for hyper-parameters by the validation split, with Optuna.

  python -m fairat_lightning.search method=faal 'method.radius=interval(0.05,1)' trials=20
  python -m fairat_lightning.search method=trades 'optim.lr=tag(log,interval(0.01,0.3))' objective.beta=3,6,9 'seeds=[0,1,2]'
  python -m fairat_lightning.search ... study=radius storage=postgresql://user@host/db      as many workers as you start

What varies is said as in a Hydra sweep: interval(a,b), also in tag(log,...) or int(...), range(a,b,step), choice(a,b) or a,b.
Everything else is a word of a training run. A trial trains every seed, one after the other, and its value is the mean over seeds
of the best `select` score on validation; nothing is chosen on test images. A trial whose worst class, on validation, lags behind
the median of the others at the same epoch is pruned.

Others: trials=20  seeds=[0]  study=search  storage=sqlite:///runs/search.db  prune=true  heartbeat=60 (seconds)

The study is in the storage: the same command goes on where it was stopped, also in several processes at once. A trial whose
process died is tried again, and its runs go on from their checkpoints.
"""

import csv
import os
import time
import warnings
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
from filelock import Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from fairat_lightning.__main__ import composed, run, start
from fairat_lightning.checks import switch, whole
from fairat_lightning.guards import Diverged
from fairat_lightning.record import redacted

DEFAULTS = {"trials": 20, "seeds": [0], "study": "search", "storage": "sqlite:///runs/search.db", "prune": True, "heartbeat": 60}
PAUSE = 10  # seconds before another point is asked for
PLAIN = ("study=", "storage=")
WATCHED, SCORE = "val/robust_worst", "val/select"


def main(words: list[str]) -> None:
    """Search as the words of the command say; ValueError for wrong ones."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise ValueError("the search needs Optuna: pip install fairat-lightning[sweeps]") from None
    plain = dict(word.split("=", 1) for word in words if word.startswith(PLAIN))  # an address is no Hydra word
    overrides = OverridesParser.create().parse_overrides([word for word in words if not word.startswith(PLAIN)])
    settings = _settings([o for o in overrides if o.key_or_group in DEFAULTS]) | plain
    rest = [o for o in overrides if o.key_or_group not in DEFAULTS]
    varied = {str(o.key_or_group): o for o in rest if o.is_sweep_override()}
    fixed = [str(o.input_line) for o in rest if not o.is_sweep_override()]
    if not varied:
        raise ValueError("nothing varies: give a key a range, such as 'method.radius=interval(0.05,1)'")
    if taken := next((o.key_or_group for o in rest if o.key_or_group in ("seed", "overwrite", "hydra.run.dir")), None):
        raise ValueError(f"{taken} cannot be set in a search: seeds=[0,1,2] trains these, each in a folder of its own")
    study = _study(optuna, settings)
    _is_of(study, {"words": sorted(str(o.input_line) for o in rest), "seeds": settings["seeds"]})
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)

    def objective(trial: Any) -> float:
        point = {key: suggest(trial, override) for key, override in varied.items()}
        print(f"\ntrial {trial.number}: {'  '.join(_assigned(point))}", flush=True)
        seen = Seen(trial, optuna.TrialPruned if settings["prune"] else None)
        try:
            return fmean(_run([*fixed, *_assigned(point), f"seed={seed}"], seen) for seed in settings["seeds"])
        except SystemExit as stop:
            if isinstance(stop.__cause__, Diverged):
                raise optuna.TrialPruned(str(stop.__cause__)) from None
            if isinstance(stop.__cause__, Timeout):
                time.sleep(PAUSE)
                raise stop.__cause__ from None  # another worker is at this very point
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if stop.code == os.EX_TEMPFAIL:
                study.enqueue_trial(trial.params)  # to be gone on with
            raise

    while sum(trial.state in ended for trial in study.get_trials(deepcopy=False)) < settings["trials"]:
        study.optimize(objective, n_trials=1, catch=(Timeout,))
    _show(study, ended[0])


def suggest(trial: Any, override: Override) -> Any:
    """The value of one key in a trial; ValueError for what cannot be searched."""
    key, values = str(override.key_or_group), override.value()
    if isinstance(values, IntervalSweep):
        low, high, log = values.start, values.end, "log" in values.tags
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(key, low, high, log=log)
        return trial.suggest_float(key, low, high, log=log)
    if isinstance(values, ChoiceSweep | RangeSweep):
        return trial.suggest_categorical(key, list(override.sweep_string_iterator()))
    raise ValueError(f"{override.input_line} cannot be searched: give interval(a,b), range(a,b,step) or choice(a,b)")


class Seen(Checkpoint):
    """Tells the trial the worst class's accuracy after each epoch, the mean of the seeds so far; raises `prune` for a laggard.

    Everything is read from the run's history, so that a run that is gone on with, or finished before, is told alike.
    """

    def __init__(self, trial: Any, prune: type[Exception] | None):
        self.trial, self.prune = trial, prune
        self.folder = Path()
        self.seeds: dict[Path, list[float]] = {}
        self.told = 0

    def begin(self, folder: Path) -> None:
        self.folder = folder
        self.seeds[folder] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.tell(self.rows())

    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "history.csv").open() as file:
            return list(csv.DictReader(file))

    def tell(self, rows: list[dict[str, str]]) -> None:
        own = self.seeds[self.folder]
        for row in [row for row in rows if row.get(WATCHED)][len(own) :]:
            own.append(float(row[WATCHED]))
            self.trial.report(fmean(worst[len(own) - 1] for worst in self.seeds.values() if len(worst) >= len(own)), self.told)
            self.told += 1
        if self.prune is not None and self.trial.should_prune():
            raise self.prune


def _run(words: list[str], seen: Seen) -> float:
    """The validation score of the epoch that one training, or what is left of it, keeps."""
    cfg, folder = composed(words)
    seen.begin(folder)
    run(cfg, folder, sweep=True, callbacks=[seen])
    rows = seen.rows()
    seen.tell(rows)
    scores = [float(row[SCORE]) for row in rows if row.get(SCORE)]
    return scores[-1] if cfg.select == "last" else max(scores)


def _settings(overrides: list[Override]) -> dict[str, Any]:
    given: Any = OmegaConf.to_object(OmegaConf.create([o.value() for o in overrides]))
    found: dict[str, Any] = DEFAULTS | dict(zip((str(o.key_or_group) for o in overrides), given, strict=True))
    for key in ("trials", "heartbeat"):
        whole(key, found[key])
    if not isinstance(found["seeds"], list) or not found["seeds"] or not all(type(seed) is int for seed in found["seeds"]):
        raise ValueError(f"seeds={found['seeds']} must be a list of whole numbers, such as [0,1,2]")
    switch("prune", found["prune"])
    return found


def _study(optuna: Any, settings: dict[str, Any]) -> Any:
    """The study in its storage, made if it is not there; ValueError where the storage cannot be opened."""
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")
    url, beat = str(settings["storage"]), settings["heartbeat"]
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).expanduser().parent.mkdir(parents=True, exist_ok=True)

    def again(study: Any, trial: Any) -> None:
        study.enqueue_trial(trial.params)

    try:
        return optuna.create_study(
            storage=optuna.storages.RDBStorage(url, heartbeat_interval=beat, grace_period=2 * beat, failed_trial_callback=again),
            sampler=optuna.samplers.TPESampler(constant_liar=True),
            pruner=optuna.pruners.MedianPruner(),
            study_name=str(settings["study"]),
            direction="maximize",
            load_if_exists=True,
        )
    except (ImportError, ValueError, OSError, SQLAlchemyError) as error:
        raise ValueError(f"storage={redacted(url)} cannot be opened: {str(error).splitlines()[0]}") from None


def _is_of(study: Any, what: dict[str, Any]) -> None:
    """Raise ValueError where the study is of another search."""
    if study.user_attrs.get("search", what) != what:
        raise ValueError(f"study={study.study_name} is of another search, with other words: choose another study=NAME")
    study.set_user_attr("search", what)


def _assigned(point: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in point.items()]


def _show(study: Any, complete: Any) -> None:
    done = sorted((t for t in study.trials if t.state == complete), key=lambda t: -t.value)
    print(f"\n{len(study.trials)} trials of study {study.study_name}, {len(done)} of them to their end; the best on validation:")
    for trial in done[:5]:
        print(f"  {trial.value:.4f}   {'  '.join(_assigned(trial.params))}")


if __name__ == "__main__":
    start(main, __doc__ or "")
