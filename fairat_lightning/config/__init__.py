"""From the overrides of a command to the parts of a run: compose, check what may be named, build."""

from fairat_lightning.config import normalisation as normalisation  # every configuration may ask its resolver
