"""The training methods, one LightningModule each."""

from fairat_lightning.methods.absld import ABSLD
from fairat_lightning.methods.adversarial import AdversarialTraining
from fairat_lightning.methods.bat import BAT
from fairat_lightning.methods.cfa import CFA
from fairat_lightning.methods.cfol import CFOL
from fairat_lightning.methods.codat import CODAT
from fairat_lightning.methods.csr import CSR
from fairat_lightning.methods.dafa import DAFA
from fairat_lightning.methods.decosam import DecoSAM
from fairat_lightning.methods.faal import FAAL
from fairat_lightning.methods.fair_ard import FairARD
from fairat_lightning.methods.fair_tat import FairTAT
from fairat_lightning.methods.fairat import FairAT
from fairat_lightning.methods.floor import FLOOR
from fairat_lightning.methods.frl import FRL
from fairat_lightning.methods.ham import HAM
from fairat_lightning.methods.standard import Standard
from fairat_lightning.methods.trix import TRIX
from fairat_lightning.methods.variance import VariancePenalty
from fairat_lightning.methods.wat import WAT

__all__ = [
    "ABSLD",
    "AdversarialTraining",
    "BAT",
    "CFA",
    "CFOL",
    "CODAT",
    "CSR",
    "DAFA",
    "FAAL",
    "FLOOR",
    "FRL",
    "DecoSAM",
    "HAM",
    "FairARD",
    "FairAT",
    "FairTAT",
    "Standard",
    "TRIX",
    "VariancePenalty",
    "WAT",
]
