"""The training methods, one LightningModule each."""

from fairat_lightning.methods.adversarial import AdversarialTraining
from fairat_lightning.methods.faal import FAAL
from fairat_lightning.methods.fairat import FairAT
from fairat_lightning.methods.standard import Standard

__all__ = ["FAAL", "AdversarialTraining", "FairAT", "Standard"]
