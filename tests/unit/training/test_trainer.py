"""Which device the Trainer of a run has."""

import pytest
import torch
from lightning.fabric.accelerators import MPSAccelerator
from lightning.pytorch.accelerators import CPUAccelerator

from fairat_lightning.training.trainer import build_trainer, check_trainer


@pytest.mark.parametrize("devices", [0, -2, True])
def test_a_number_of_gpus_that_is_none_is_refused(monkeypatch, compose, tmp_path, devices):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = compose("data=synthetic", "trainer=auto", "trainer.accelerator=gpu", f"trainer.devices={str(devices).lower()}")
    with pytest.raises(ValueError, match="must be a number of GPUs, 1 or more, a list of them, -1 for all, or auto"):
        check_trainer(cfg.trainer)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is chosen there")
def test_where_nobody_chooses_a_mac_trains_on_its_processor(monkeypatch, compose, tmp_path):
    """Its GPU has no float64, and `trainer.accelerator=mps` is refused."""
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert isinstance(build_trainer(compose("data=synthetic", "trainer=auto"), tmp_path).accelerator, CPUAccelerator)
