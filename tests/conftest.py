"""Two cores: the tests run in parallel processes, each on one thread."""

import json
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import DictConfig

from fairat_lightning.__main__ import CONF, run
from fairat_lightning.models import preactresnet_tiny

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    """The weights of an untrained network of SMALL's shape, for what distils."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.manual_seed(0)
    torch.save(preactresnet_tiny(num_classes=4, in_channels=1, width=4, mean=[0.5], std=[0.25]).state_dict(), path)
    return path


@pytest.fixture
def compose(teacher):
    """Compose the project's configuration with these overrides, as the command does; where a teacher is needed, there is one."""

    def compose(*overrides: str) -> DictConfig:
        if "method=fair_ard" in overrides and not any(word.startswith("method.teacher=") for word in overrides):
            overrides = (*overrides, f"method.teacher={teacher}")
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(overrides), return_hydra_config=True)

    return compose


@pytest.fixture
def launch(compose, tmp_path):
    """Run the command in this process: overrides -> (folder, metrics). Small and synthetic unless the overrides say more."""

    def launch(*overrides: str, folder: str = "run") -> tuple[Path, dict]:
        cfg = compose(*SMALL, *overrides)
        run(cfg, tmp_path / folder)
        return tmp_path / folder, json.loads((tmp_path / folder / "metrics.json").read_text())

    return launch


# A run of seconds: two epochs of a few batches.
SMALL = (
    "data=synthetic",
    "data.train_size=64",
    "data.test_size=40",
    "data.batch_size=32",
    "model.width=4",
    "trainer=cpu",
    "trainer.precision=32-true",  # the same on every machine
    "trainer.max_epochs=2",
    "attack.steps=2",
)


def network_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The network's part of a run's last checkpoint."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
