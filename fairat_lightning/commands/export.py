"""Export a trained network: check the words, and hand it to `standalone/export.py`."""

from fairat_lightning.config.compose import compose_classifier
from fairat_lightning.standalone.folder import destination


def main(words: list[str]) -> None:
    """Write the folder that the words name, proven, or nothing. Raises what `compose.WRONG_INPUT` lists."""
    cfg = compose_classifier("classifier", words)
    folder = destination(cfg.to, cfg.overwrite)
    from fairat_lightning.config.classifier import load  # torch takes seconds to import
    from fairat_lightning.standalone.export import export

    export(load(cfg), folder, overwrite=cfg.overwrite)
