"""Balance the last layer of a trained classifier: check the words, and hand them to `training/balance.py`."""

from fairat_lightning.config.compose import compose_classifier
from fairat_lightning.settings import SCORES, switch


def main(words: list[str]) -> None:
    """Write the balanced weights that the words name. Raises what `compose.WRONG_INPUT` lists."""
    cfg = compose_classifier("balance", words)
    if cfg.select not in SCORES:
        raise ValueError(f"select={cfg.select} is unknown: choose one of {', '.join(SCORES)}")
    if cfg.to is not None and (not isinstance(cfg.to, str) or not cfg.to):
        raise ValueError(f"to={cfg.to} must be a path")
    switch("overwrite", cfg.overwrite)
    from fairat_lightning.training.balance import balance  # torch takes seconds to import

    balance(cfg)
