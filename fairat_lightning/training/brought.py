"""The trained weights that a training is brought: those it starts from (`init_from`) and those of its teacher (`method.teacher`).

Which normalisation they need is settled once, at a run's beginning, and is in the run's configuration and record from then on.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from fairat_lightning.config.build import trained
from fairat_lightning.config.loading import Loaded, classes_differ, load_trained, named_set
from fairat_lightning.config.normalisation import meant, normalised_as_begun, set_model
from fairat_lightning.data import DataModule
from fairat_lightning.models.weights import weights_file
from fairat_lightning.record.fingerprint import fingerprint
from fairat_lightning.record.reader import read_facts, run_folder
from fairat_lightning.settings import value_of


class Brought:
    """`lines` are for the user, `notes` and `facts` for the record; all are empty for a file of this package."""

    def __init__(self, cfg: DictConfig, folder: Path, *, mean_given: bool, anew: bool) -> None:
        """Settle what the command says of them, in `cfg`, or what the run in `folder` began with, unless it is trained again.

        `mean_given`: the command sets model.mean or model.std. Raises ValueError for settings that exclude each other.
        """
        self.cfg, self.folder = cfg, folder
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.sources: dict[str, dict[str, Any]] = {}
        self.said = mean_given
        self.key = named_set(cfg)
        word = cfg.pop("normalisation", None)
        teacher = cfg.method.get("teacher") if OmegaConf.is_dict(cfg.method) else None
        files = [path for path in (cfg.init_from, teacher) if isinstance(path, str)]
        if self.key is not None and not files:
            raise ValueError(f"key={self.key} names weights in the file of init_from= or method.teacher=: set one of these too")
        self.of_others = [path for path in files if run_folder(path) is None]
        if word is not None:
            if mean_given:
                raise ValueError("normalisation= sets model.mean and model.std: set either it or these, not both")
            set_model(cfg, meant(word))
            self.said = True
        elif cfg.init_from is not None and not mean_given and not anew:
            normalised_as_begun(cfg, folder, "init_from")

    def check(self) -> None:
        """ValueError for a path of `init_from` that does not exist, before the data are downloaded."""
        with value_of("init_from"):
            weights_file(self.cfg.init_from)

    def start(self, net: nn.Module, data: DataModule) -> None:
        """Load the weights that the training starts from."""
        path = self.cfg.init_from
        with value_of("init_from"):
            loaded = load_trained(net, path, self.cfg, data, key=self._key(path), given=self.said)
        if loaded.normalisation is not None:
            set_model(self.cfg, loaded.normalisation)
        self._note("init_from", path, loaded)

    def teacher(self, data: DataModule, *, resumed: bool) -> Any:
        """The network that `method.teacher` names, normalised as it was when the run began."""
        path = self.cfg.method.teacher
        before = read_facts(self.folder, {}).get("teacher", {}) if resumed else {}
        settled = (before["mean"], before["std"]) if "mean" in before else None
        given = self.said or (resumed and settled is None)  # 0.1 took the configuration's, and recorded nothing
        self.lines += classes_differ("method.teacher", path, data.classes)
        with value_of("method.teacher"):
            net, loaded = trained(path, self.cfg, data, key=self._key(path), given=given, settled=settled)
        self._note("teacher", path, loaded)
        return net

    def facts(self, net: nn.Module) -> dict[str, Any]:
        """What the record of a run that begins says of them."""
        found: dict[str, Any] = {name: dict(source) for name, source in self.sources.items()}
        if "init_from" in found:
            found["init_from"] |= {"weights": fingerprint(net.state_dict())}
        return found | ({"notes": self.notes} if self.notes else {})

    def _note(self, name: str, path: str, loaded: Loaded) -> None:
        if name == "init_from" or loaded.facts:
            self.sources[name] = {"path": path, **loaded.facts}
        self.lines += [f"{name}: {line}" for line in loaded.lines]
        self.notes += [f"Warning, {name}: {loaded.warning}."] if loaded.warning else []

    def _key(self, path: str) -> str | None:
        """The key is for weights from elsewhere; without such a file it goes to the run's, whose loading refuses it."""
        return self.key if path in self.of_others or not self.of_others else None
