"""What several methods are made of."""

from fairat_lightning.methods.parts.checked_batches import CheckedBatches
from fairat_lightning.methods.parts.cuda_graph import Captured
from fairat_lightning.methods.parts.hard_examples import HardExamples
from fairat_lightning.methods.parts.worst_case import WorstCase

__all__ = ["Captured", "CheckedBatches", "HardExamples", "WorstCase"]
