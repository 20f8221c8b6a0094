"""Export a trained network: check the settings, and hand it to `standalone/export.py`."""

from pathlib import Path

from omegaconf import DictConfig

from fairat_lightning.config.compose import compose_classifier
from fairat_lightning.standalone.folder import destination


def main(words: list[str]) -> None:
    """Write the folder that the settings name once it is verified, or nothing. Raises what `compose.WRONG_INPUT` lists."""
    cfg = compose_classifier("classifier", words, _destination)
    from fairat_lightning.config.classifier import load  # torch takes seconds to import
    from fairat_lightning.standalone.export import export

    export(load(cfg), _destination(cfg), overwrite=cfg.overwrite)


def _destination(cfg: DictConfig) -> Path:
    return destination(cfg.to, cfg.overwrite)
