"""How many processes an evaluation may have on a machine, and how many threads each."""

import os

import pytest
import torch
from omegaconf import OmegaConf

from fairat_lightning.evaluation.devices import check_devices, threads_of_each


@pytest.mark.parametrize(
    "device,gpus,devices,said",
    [
        ("cuda", 1, 3, "devices=3: this machine has 1 GPU; set devices=1$"),
        ("auto", 2, 3, "devices=3: this machine has 2 GPUs; set devices=2 or less"),
        ("cpu", 1, 9, "devices=9: this machine has 4 cores; set devices=8 or less"),
        ("auto", 4, 4, None),
        ("cpu", 0, 8, None),
    ],
)
def test_more_devices_than_there_are(monkeypatch, device, gpus, devices, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    cfg = OmegaConf.create({"device": device, "devices": devices})
    if said is None:
        check_devices(cfg)
    else:
        with pytest.raises(ValueError, match=said):
            check_devices(cfg)


def test_the_processes_divide_the_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of_each(n) for n in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert threads_of_each(2) == 8
