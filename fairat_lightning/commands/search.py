"""Search for hyper-parameters with Optuna; the trainings are those of `one_run.py`."""

import os
import shlex
import time
import warnings
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf

from fairat_lightning.commands.one_run import run
from fairat_lightning.config.compose import compose_training, resolved
from fairat_lightning.config.home import VERBATIM
from fairat_lightning.config.words import first_part, meant_root, roots
from fairat_lightning.record.environment import install
from fairat_lightning.record.identity import IDLE, IDLE_OF_DATA, IDLE_OF_TRAINER, MACHINE, checked
from fairat_lightning.record.reader import kept_epoch, read_history
from fairat_lightning.record.secrets import redacted
from fairat_lightning.running.errors import Diverged
from fairat_lightning.running.terminal import short
from fairat_lightning.settings import seed_list, switch, whole

DEFAULTS = {"trials": 20, "seeds": [0], "study": "search", "storage": "sqlite:///runs/search.db", "prune": True, "heartbeat": 60}
OWN = tuple(DEFAULTS)
ELSEWHERE = frozenset({*IDLE, "allow", "trainer", "data.root", *(f"data.{key}" for key in IDLE_OF_DATA)})
ELSEWHERE |= {f"trainer.{key}" for key in (*IDLE_OF_TRAINER, *MACHINE)}
PAUSE = 10  # seconds before another point is asked for
SCORE = "val/select"


def main(words: list[str]) -> None:
    """Search as the settings of the command say; ValueError for wrong ones."""
    verbatim = tuple(f"{key}=" for key in VERBATIM)  # Hydra cannot read an address
    plain = dict(word.split("=", 1) for word in words if word.startswith(verbatim))
    overrides = OverridesParser.create().parse_overrides([word for word in words if not word.startswith(verbatim)])
    settings = _settings([o for o in overrides if o.key_or_group in DEFAULTS]) | plain
    rest = [o for o in overrides if o.key_or_group not in DEFAULTS]
    varied = {str(o.key_or_group): o for o in rest if o.is_sweep_override()}
    fixed = [str(o.input_line) for o in rest if not o.is_sweep_override()]
    for key in (str(o.key_or_group) for o in rest):
        if first_part(key) not in roots("config"):
            raise ValueError(f"there is no key {key}{meant_root(key, [*OWN, *roots('config')])}")
    if not varied:
        raise ValueError("there is nothing to search: give a key a range, such as 'method.radius=interval(0.05,1)'")
    if taken := next((o.key_or_group for o in rest if o.key_or_group in ("seed", "overwrite", "hydra.run.dir")), None):
        raise ValueError(f"{taken} cannot be set in a search: set seeds=[0,1,2], which are trained in folders of their own")
    if (place := next((o.value() for o in rest if o.key_or_group == "hydra.sweep.dir"), None)) is not None:
        fixed.append(f"hydra.run.dir='{place}/${{run_name:}}'")
    cfg, _ = compose_training([*fixed, *(f"{key}={first_of(o)}" for key, o in varied.items())], say=False)  # or a refusal
    elsewhere = ELSEWHERE if checked(resolved(cfg)["data"]) else ELSEWHERE - {"data.root"}
    try:
        import optuna
    except ModuleNotFoundError:
        raise ValueError(f"the search needs Optuna: {install('sweeps')}") from None
    from fairat_lightning.training.optuna_trial import Seen

    study = _study(optuna, settings)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    _is_of(study, {"words": sorted(str(o.input_line) for o in rest), "seeds": settings["seeds"]}, elsewhere)

    def objective(trial: Any) -> float:
        point = {key: suggest(trial, override) for key, override in varied.items()}
        print(f"\ntrial {trial.number}: {'  '.join(_assigned(point))}", flush=True)
        seen = Seen(trial, optuna.TrialPruned if settings["prune"] else None)
        try:
            found = [_run([*fixed, *_assigned(point), f"seed={seed}"], seen) for seed in settings["seeds"]]
            trial.set_user_attr("folders", [str(short(folder)) for _, folder in found])
            return fmean(score for score, _ in found)
        except SystemExit as stop:
            if isinstance(stop.__cause__, Diverged):
                raise optuna.TrialPruned(str(stop.__cause__)) from None
            if isinstance(stop.__cause__, Timeout):
                time.sleep(PAUSE)
                raise stop.__cause__ from None  # another worker is at this very point
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if stop.code == os.EX_TEMPFAIL:
                study.enqueue_trial(trial.params)  # to be continued
            raise

    while sum(trial.state in ended for trial in study.get_trials(deepcopy=False)) < settings["trials"]:
        study.optimize(objective, n_trials=1, catch=(Timeout,))
    _show(study, ended[0], [*fixed, f"seed={settings['seeds'][0]}"], cfg.select)


def suggest(trial: Any, override: Override) -> Any:
    """The value of one key in a trial."""
    key, values = str(override.key_or_group), override.value()
    if not isinstance(values, IntervalSweep):
        return trial.suggest_categorical(key, list(override.sweep_string_iterator()))
    low, high, log = values.start, values.end, "log" in values.tags
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log)
    return trial.suggest_float(key, low, high, log=log)


def first_of(override: Override) -> Any:
    """A value that `suggest` can give; ValueError for what cannot be searched."""
    values = override.value()
    if isinstance(values, IntervalSweep):
        low, high, log = float(values.start or 0), float(values.end or 0), "log" in values.tags
        if not low < high or (log and not low > 0):
            need = "the first number must be below the second" + (", and above 0 on a logarithmic scale" if log else "")
            raise ValueError(f"{override.input_line} cannot be searched: {need}")
        return values.start
    if isinstance(values, ChoiceSweep | RangeSweep):
        if (first := next(iter(override.sweep_string_iterator()), None)) is None:
            raise ValueError(f"{override.input_line} cannot be searched: the range is empty")
        return first
    raise ValueError(f"{override.input_line} cannot be searched: write interval(a,b), range(a,b,step) or choice(a,b)")


def _run(words: list[str], seen: Any) -> tuple[float, Path]:
    """The validation score of the epoch that one training, or what is left of it, keeps, and its folder."""
    cfg, folder = compose_training(words)
    seen.begin(folder)
    run(cfg, folder, sweep=True, callbacks=[seen])
    seen.tell(read_history(folder))
    return kept_epoch(folder)[SCORE], folder


def _settings(overrides: list[Override]) -> dict[str, Any]:
    given: Any = OmegaConf.to_object(OmegaConf.create([o.value() for o in overrides]))
    found: dict[str, Any] = DEFAULTS | dict(zip((str(o.key_or_group) for o in overrides), given, strict=True))
    for key in ("trials", "heartbeat"):
        whole(key, found[key])
    seed_list(found["seeds"])
    switch("prune", found["prune"])
    return found


def _study(optuna: Any, settings: dict[str, Any]) -> Any:
    """The study in its storage, made if it is not there; ValueError where the storage cannot be opened."""
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")
    url, beat = str(settings["storage"]), settings["heartbeat"]

    def again(study: Any, trial: Any) -> None:
        study.enqueue_trial(trial.params)

    try:
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).expanduser().parent.mkdir(parents=True, exist_ok=True)
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


def _is_of(study: Any, what: dict[str, Any], elsewhere: frozenset[str]) -> None:
    """Raise ValueError where the study is of another search. `elsewhere`: the keys that may differ between its workers."""

    def counting(search: dict[str, Any]) -> set[str]:
        keys = {word: word.lstrip("+~").partition("=")[0] for word in search["words"]}
        kept = {word for word, key in keys.items() if key not in elsewhere and key.partition(".")[0] not in ("logger", "hydra")}
        return {*kept, f"seeds={search['seeds']}"}

    there, here = counting(study.user_attrs.get("search", what)), counting(what)
    if there != here:
        raise ValueError(
            f"study={study.study_name} belongs to a search with other settings"
            f" ({', '.join(sorted(there - here)) or 'none'} there, {', '.join(sorted(here - there)) or 'none'} here):"
            " choose another study=NAME"
        )
    study.set_user_attr("search", what)


def _assigned(point: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in point.items()]


def _show(study: Any, complete: Any, fixed: list[str], select: str) -> None:
    done = sorted((t for t in study.trials if t.state == complete), key=lambda t: -t.value)
    print(f"\n{len(study.trials)} trials of study {study.study_name}, {len(done)} of them complete; the best on validation,")
    print(f"by select={select}, in percent:")
    for trial in done[:5]:
        print(f"  {100 * trial.value:6.1f}   {'  '.join(_assigned(trial.params))}")
    if done and (folders := done[0].user_attrs.get("folders")):
        print(f"Its runs: {' '.join(folders)}")
        print(f"The first again: {shlex.join(['python', '-m', 'fairat_lightning', *fixed, *_assigned(done[0].params)])}")
