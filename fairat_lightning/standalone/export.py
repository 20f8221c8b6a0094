"""Write a trained network into a folder, and verify that what was written is the same network."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save
from torch import Tensor, nn

from fairat_lightning.config.classifier import Classifier
from fairat_lightning.config.compose import plain
from fairat_lightning.config.targets import stored
from fairat_lightning.data import as_float
from fairat_lightning.pretrained import is_pretrained, located
from fairat_lightning.record.fingerprint import fingerprint
from fairat_lightning.running.terminal import short
from fairat_lightning.standalone import model_card
from fairat_lightning.standalone.card_records import NEVER, Records, read_records
from fairat_lightning.standalone.card_tables import columns
from fairat_lightning.standalone.folder import CARD, CODE, WEIGHTS, staged
from fairat_lightning.standalone.source import Shape, is_ours, title, write

RANDOM, TEST = 4, 8  # images that the written network is proven on


def export(exported: Classifier, folder: Path, *, overwrite: bool) -> None:
    """Write `folder` once it is verified, or nothing; print what is in it. ValueError for a network that cannot be exported."""
    with staged(folder, overwrite) as part:
        needs = write_network(part, exported)
        images = proof_images(exported)
        prove(exported.net, part, images)
        said = write_card(part, exported, needs)
    size = sum(p.numel() for p in exported.net.parameters())
    print(f"network  {short(folder / CODE)}, {short(folder / WEIGHTS)}: {size:,} parameters, {exported.data.num_classes} classes")
    print(f"verified loaded back, it gives the same logits bit for bit on {len(images)} images")
    print(f"card     {short(folder / CARD)}: {said}")


def write_network(folder: Path, exported: Classifier) -> str:
    """Write WEIGHTS and CODE into `folder`; the packages that CODE needs. ValueError for what safetensors cannot hold."""
    state = exported.net.state_dict()
    if other := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"{other[0]} of the network's state is not a tensor, and safetensors cannot hold it: remove it from the state dict"
        )
    # Cloned: safetensors refuses tensors that share memory or are not contiguous.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    source, needs = write(exported.net, _model(exported), _shape(exported))
    (folder / WEIGHTS).write_bytes(save(tensors, {"format": "pt"}))
    (folder / CODE).write_text(source)
    return needs


def proof_images(exported: Classifier) -> Tensor:
    """A few random images and the first of the test set: (n,C,H,W) in [0,1]."""
    test = as_float(exported.data.test.pixels[:TEST])
    return torch.cat([torch.rand(RANDOM, *test.shape[1:], generator=torch.Generator().manual_seed(0)), test])


def prove(net: nn.Module, folder: Path, images: Tensor) -> None:
    """Load `folder` in a fresh namespace; ValueError unless that has the tensors and gives the logits of `net`, bit for bit."""
    module = ModuleType("exported_model")
    module.__file__ = str(folder / CODE)
    try:
        with torch.random.fork_rng(devices=[]):  # a constructor draws weights that are then overwritten
            exec(compile((folder / CODE).read_text(), module.__file__, "exec"), module.__dict__)
            again = module.load(folder)
        with torch.no_grad():
            logits, expected = again(images), net(images)
    except Exception as error:  # a class of one's own can raise anything
        raise ValueError(f"the network cannot be exported: {CODE} fails with {type(error).__name__}: {error}") from error
    if not isinstance(expected, torch.Tensor) or expected.shape != (len(images), len(module.CLASSES)):
        what = tuple(expected.shape) if isinstance(expected, torch.Tensor) else type(expected).__name__
        raise ValueError(f"the network gives {what} for {len(images)} images, not logits of {len(module.CLASSES)} classes")
    before, after = net.state_dict(), again.state_dict()
    if different := [name for name in before | after if name not in before or not _same(before[name], after.get(name))]:
        raise ValueError(f"the network cannot be exported: {different[0]} is another tensor after {CODE} has loaded it")
    if not _same(expected, logits):
        why = "a part of it is not in its state dict, or it is random in eval mode"
        raise ValueError(f"the network cannot be exported: after loading it back its logits differ; {why}")


def write_card(folder: Path, exported: Classifier, needs: str) -> str:
    """Write CARD into `folder`; what to tell of it. ValueError for a record that cannot be read."""
    cfg, model, shape = exported.cfg, _model(exported), _shape(exported)
    if (own := _own_card(cfg)) is not None:
        (folder / CARD).write_text(own)
        return f"that of {cfg.checkpoint}"
    if exported.run is None:
        kept = {group: cfg[group] for group in ("model", "data")}
        records = Records(OmegaConf.to_yaml(kept), remarks=[NEVER])
    else:
        records = read_records(exported.run, Path(cfg.checkpoint).expanduser(), fingerprint(exported.net.state_dict()))
    if other := [e.name for e in records.evaluations for s in e.summaries.values() if list(s["per_class"]) != shape.classes]:
        raise ValueError(
            f"the figures of {exported.run}, {other[0]}, are of other classes than the data: set data= to those of the run"
        )
    facts = model_card.Facts(
        name=title(model),
        constructor=model["_target_"],
        parameters=sum(p.numel() for p in exported.net.parameters()),
        data=str(cfg.data.load["_target_"]).rpartition(".")[2],
        classes=shape.classes,
        channels=shape.channels,
        size=shape.size,
        needs=needs,
        imported=not is_ours(model["_target_"]),
    )
    (folder / CARD).write_text(model_card.write(facts, records))
    attacks = len(columns(records.evaluations))
    figures = f"figures of {attacks} attacks" if attacks else "no figures, because it was never evaluated here"
    return f"{figures}; choose a license and write it there"


def _own_card(cfg: DictConfig) -> str | None:
    """The card that a pretrained network has; None for any other, and where settings of the command changed its model or data."""
    groups = ("model", "data")
    if not is_pretrained(cfg.checkpoint):
        return None
    kept = located(cfg.checkpoint)
    here = {group: plain(cfg)[group] for group in groups}
    here["data"]["root"] = None  # where the same images lie
    return (kept / CARD).read_text() if here == stored(kept, groups) else None


def _model(exported: Classifier) -> dict[str, Any]:
    model: dict[str, Any] = plain(exported.cfg)["model"]
    return model


def _shape(exported: Classifier) -> Shape:
    return Shape(exported.data.classes, exported.data.channels, exported.data.image_size)


def _same(a: Tensor, b: Any) -> bool:
    """Whether two tensors have the same type, shape and bits, nan included."""
    if not isinstance(b, torch.Tensor) or a.dtype != b.dtype or a.shape != b.shape:
        return False
    bits = [t.detach().cpu().contiguous().flatten().view(torch.uint8) for t in (a, b)]
    return torch.equal(*bits)
