"""From the overrides of a command to the parts of a run: compose, check what may be named, build."""

from fairat_lightning.config import normalisation  # every configuration may ask its resolver

__all__ = ["build", "classifier", "compose", "from_python", "home", "loading", "normalisation", "targets", "words"]
