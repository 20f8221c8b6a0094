"""Evaluate a classifier class by class: check the settings, and hand them to `evaluation/run.py`."""

from omegaconf import DictConfig

from fairat_lightning.commands.errors import Stop, memory_of
from fairat_lightning.config.compose import compose_classifier
from fairat_lightning.running.errors import Lost
from fairat_lightning.settings import one_of, seed_number, switch, whole

SPLITS = ("test", "val", "train")


def main(words: list[str]) -> None:
    """Evaluate as the settings say, or show the evaluation if it is finished. Raises what `compose.WRONG_INPUT` lists."""
    cfg = compose_classifier("evaluate", words, _check)
    from fairat_lightning.evaluation.run import evaluate  # torch takes seconds to import

    try:
        with memory_of("batch_size; what is finished is kept"):
            evaluate(cfg)
    except Lost as error:
        raise Stop(1, str(error)) from None


def _check(cfg: DictConfig) -> None:
    seed_number("seed", cfg.seed)
    for key in ("batch_size", "samples_per_class", "samples_in_full", "devices"):
        value = cfg[key]
        known = (value is None and key.startswith("samples")) or (value == "auto" and key == "batch_size")
        if not known:
            whole(key, value)
    switch("overwrite", cfg.overwrite)
    for key in ("classes", "in_full"):
        if cfg[key] is not None and (isinstance(cfg[key], str | int | float) or not len(cfg[key])):
            raise ValueError(f"{key}={cfg[key]} must be a list of names, such as {key}=[cat,dog]")
    if cfg.in_full is not None and (cfg.samples_per_class is None or cfg.classes is not None):
        raise ValueError("in_full needs samples_per_class=N and no classes=: it adds images to a sample of every class")
    if cfg.samples_in_full is not None and (cfg.in_full is None or cfg.samples_in_full < cfg.samples_per_class):
        raise ValueError(
            "samples_in_full needs in_full=[NAME]: it is the number of images of each of these classes, samples_per_class or more"
        )
    one_of("split", cfg.split, SPLITS)
    if cfg.to is not None and (not isinstance(cfg.to, str) or not cfg.to):
        raise ValueError(f"to={cfg.to} must be a path")
    if not isinstance(cfg.name, str) or not cfg.name or "/" in cfg.name or cfg.name.startswith(".") or len(cfg.name) > 100:
        raise ValueError(f"name={cfg.name} must be the name of a folder, without / and of 100 letters at most")
    one_of("device", cfg.device, ("auto", "cpu", "cuda"))
