"""Balance the last layer of a trained classifier: check the settings, and hand them to `training/balance.py`."""

from pathlib import Path

from omegaconf import DictConfig

from fairat_lightning.commands.errors import memory_of
from fairat_lightning.config.compose import compose_classifier
from fairat_lightning.pretrained import is_pretrained
from fairat_lightning.record.atomic_write import try_place
from fairat_lightning.record.reader import run_folder, weights_file
from fairat_lightning.settings import SCORES, one_of, reachable, switch


def main(words: list[str]) -> None:
    """Write the balanced weights that the settings name. Raises what `compose.WRONG_INPUT` lists."""
    cfg = compose_classifier("balance", words, _destination)
    from fairat_lightning.training.balance import balance  # torch takes seconds to import

    with memory_of("data.eval_batch_size"):
        balance(cfg, _destination(cfg))


def _destination(cfg: DictConfig) -> Path:
    """The file to write: a new one, or one other than the checkpoint that may be replaced. ValueError for wrong settings."""
    one_of("select", cfg.select, SCORES)
    switch("overwrite", cfg.overwrite)
    if cfg.to is not None and (not isinstance(cfg.to, str) or not cfg.to):
        raise ValueError(f"to={cfg.to} must be a path")
    run = None if is_pretrained(cfg.checkpoint) else run_folder(cfg.checkpoint)
    if cfg.to is not None:
        to = reachable(cfg.to)
    elif run is not None:
        to = run / "checkpoints" / "balanced.ckpt"
    else:
        raise ValueError("set to=FILE, the file to write: this checkpoint does not belong to a run")
    if to.is_dir() or not to.absolute().parent.is_dir():
        raise ValueError(f"to={to} must be a file in a folder that exists")
    if to.resolve() == weights_file(cfg.checkpoint).resolve():
        raise ValueError(f"to={to} is the checkpoint itself: name another file")
    if to.exists() and not cfg.overwrite:
        raise ValueError(f"to={to} exists: name another file, or set overwrite=true to replace it")
    try:
        try_place(to)
    except OSError as error:
        raise ValueError(f"to={to} cannot be written: {error.strerror}") from error
    return to
