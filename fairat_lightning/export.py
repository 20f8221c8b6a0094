"""A trained network as a folder that needs neither this package nor Lightning.

  python -m fairat_lightning.export checkpoint=RUN to=FOLDER
  python -m fairat_lightning.export checkpoint=pretrained:digits_faal to=FOLDER    a network that comes with this package
  python -m fairat_lightning.export checkpoint=weights.pt to=FOLDER model=timm model.name=resnet18 data=cifar10
  python -m fairat_lightning.export checkpoint=weights.pt to=FOLDER model._target_=mypackage.MyNet allow=[mypackage.] data=cifar10

FOLDER then holds

  model.safetensors    the weights, with the images' mean and standard deviation
  model.py             the network's definition: `from model import load; logits = load()(images)` needs torch and safetensors,
                       for a model of timm timm too; a class of one's own is imported from its package
  README.md            the model card: class-wise figures of the run and of RUN/evaluation/, attacks, limits, configuration

Before the folder is there, the written network is loaded and must return the original's logits bit for bit.
The card of pretrained:NAME is copied, with the figures of its run; a NAME that does not exist lists those that do.
Others: data.root=FOLDER  overwrite=true (replaces an earlier export, and nothing else)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fairat_lightning.__main__ import start
from fairat_lightning.checks import reachable, switch

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor, nn

    from fairat_lightning.classifier import Classifier
    from fairat_lightning.standalone import Shape

WEIGHTS, CODE, CARD = FILES = ("model.safetensors", "model.py", "README.md")
RANDOM, TEST = 4, 8  # images that the written network is proven on


def main(words: list[str]) -> None:
    """Write the folder that the words name, proven, or nothing. Raises what `build.WRONG_INPUT` lists."""
    from fairat_lightning.build import short
    from fairat_lightning.classifier import compose, load

    cfg = compose("classifier", words)
    folder = _destination(cfg)
    exported = load(cfg)
    with _staged(folder, cfg.overwrite) as part:
        needs = write_network(part, exported)
        images = proof_images(exported)
        prove(exported.net, part, images)
        said = write_card(part, exported, needs)
    size = sum(p.numel() for p in exported.net.parameters())
    print(f"network  {short(folder / CODE)}, {short(folder / WEIGHTS)}: {size:,} parameters, {exported.data.num_classes} classes")
    print(f"proven   loaded back, it gives the same logits bit for bit on {len(images)} images")
    print(f"card     {short(folder / CARD)}: {said}")


def write_network(folder: Path, exported: Classifier) -> str:
    """Write WEIGHTS and CODE into `folder`; the packages that CODE needs. ValueError for what safetensors cannot hold."""
    from safetensors.torch import save
    from torch import Tensor

    from fairat_lightning.standalone import write

    state = exported.net.state_dict()
    if other := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{other[0]} of the network's state is no tensor: safetensors cannot hold it")
    # Cloned: safetensors refuses tensors that share memory or are not contiguous.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    source, needs = write(exported.net, _model(exported), _shape(exported))
    (folder / WEIGHTS).write_bytes(save(tensors, {"format": "pt"}))
    (folder / CODE).write_text(source)
    return needs


def proof_images(exported: Classifier) -> Tensor:
    """A few random images and the first of the test set: (n,C,H,W) in [0,1]."""
    import torch

    from fairat_lightning.data import as_float

    test = as_float(exported.data.test.pixels[:TEST])
    return torch.cat([torch.rand(RANDOM, *test.shape[1:], generator=torch.Generator().manual_seed(0)), test])


def prove(net: nn.Module, folder: Path, images: Tensor) -> None:
    """Load `folder` in a fresh namespace; ValueError unless that has the tensors and gives the logits of `net`, bit for bit."""
    import torch

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
    from omegaconf import OmegaConf

    from fairat_lightning import card
    from fairat_lightning.audit import fingerprint
    from fairat_lightning.card.records import NEVER
    from fairat_lightning.standalone import is_ours, title

    cfg, model, shape = exported.cfg, _model(exported), _shape(exported)
    if (own := _own_card(cfg)) is not None:
        (folder / CARD).write_text(own)
        return f"that of {cfg.checkpoint}"
    if exported.run is None:
        kept = {group: cfg[group] for group in ("model", "data")}
        records = card.Records(OmegaConf.to_yaml(kept), remarks=[NEVER])
    else:
        records = card.read_records(exported.run, Path(cfg.checkpoint).expanduser(), fingerprint(exported.net.state_dict()))
    if other := [e.name for e in records.evaluations for s in e.summaries.values() if list(s["per_class"]) != shape.classes]:
        raise ValueError(f"the figures of {exported.run}, {other[0]}, are of other classes than data.load gives here")
    facts = card.Facts(
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
    (folder / CARD).write_text(card.write(facts, records))
    attacks = len(card.columns(records.evaluations))
    figures = f"figures of {attacks} attacks" if attacks else "no figures: never evaluated here"
    return f"{figures}; choose a license in it"


def _own_card(cfg: DictConfig) -> str | None:
    """The card that a pretrained network has; None for any other, and where words of the command changed its model or data."""
    from fairat_lightning.build import plain, stored
    from fairat_lightning.pretrained import is_pretrained, located

    groups = ("model", "data")
    if not is_pretrained(cfg.checkpoint):
        return None
    kept = located(cfg.checkpoint)
    here = {group: plain(cfg)[group] for group in groups}
    here["data"]["root"] = None  # where the same images lie
    return (kept / CARD).read_text() if here == stored(kept, groups) else None


def _destination(cfg: DictConfig) -> Path:
    """The folder to write, with links followed. ValueError unless it is new, empty, or an export that may be replaced."""
    if cfg.to is None:
        raise ValueError("to=FOLDER must be given: the folder to write")
    if not isinstance(cfg.to, str) or not cfg.to:
        raise ValueError(f"to={cfg.to} must be a path")
    switch("overwrite", cfg.overwrite)
    folder = reachable(cfg.to).resolve()
    if Path.cwd().resolve().is_relative_to(folder):
        raise ValueError(f"to={cfg.to} is the working directory or above it: name a folder of its own")
    _check_free(folder, cfg.overwrite)
    return folder


def _check_free(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose another to=FOLDER")
    names = {path.name for path in folder.iterdir()}
    foreign = names - {*FILES, "__pycache__"}
    if names and (foreign or not {WEIGHTS, CODE} <= names):
        what = f"holds {min(foreign)}" if foreign else f"is no export, without {WEIGHTS} or {CODE}"
        raise ValueError(f"{folder} {what}: it is never replaced, choose another to=FOLDER")
    if names and not overwrite:
        raise ValueError(f"{folder} holds an export: overwrite=true replaces it")


@contextmanager
def _staged(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `folder` that takes its place at the end; after an error nothing is left of it."""
    made = [path for path in folder.parents if not path.exists()]
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    try:
        part.mkdir(parents=True)
        yield part
        _check_free(folder, overwrite)  # again: the proof took its time
        if folder.exists():
            folder.rename(old)
        try:
            part.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ValueError(f"to={folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for path in made:
            with suppress(OSError):  # not empty: the export is in it
                path.rmdir()


def _model(exported: Classifier) -> dict[str, Any]:
    from fairat_lightning.build import plain

    model: dict[str, Any] = plain(exported.cfg)["model"]
    return model


def _shape(exported: Classifier) -> Shape:
    from fairat_lightning.standalone import Shape

    return Shape(exported.data.classes, exported.data.channels, exported.data.image_size)


def _same(a: Tensor, b: Any) -> bool:
    """Whether two tensors have the same type, shape and bits, nan included."""
    import torch

    if not isinstance(b, torch.Tensor) or a.dtype != b.dtype or a.shape != b.shape:
        return False
    bits = [t.detach().cpu().contiguous().flatten().view(torch.uint8) for t in (a, b)]
    return torch.equal(*bits)


if __name__ == "__main__":
    start(main, __doc__ or "")
