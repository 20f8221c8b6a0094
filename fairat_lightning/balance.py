"""Balance the last layer of a trained classifier, by the validation split (`head.py` says how and why).

    python -m fairat_lightning.balance checkpoint=RUN
    python -m fairat_lightning.balance checkpoint=weights.pt model=resnet18 data=cifar10 to=balanced.pt

A run's balanced weights go to RUN/checkpoints/balanced.ckpt; any other classifier needs model=, data= and to=FILE, a state dict.
checkpoint=pretrained:NAME, a network that comes with this package (a NAME that does not exist lists all), needs to=FILE alone.
Judge the result with fairat_lightning.evaluate checkpoint=FILE. "Validation" is our split of the training set: another's network
has perhaps been trained on it. Values: select=sum|worst|average, head.strengths=[0.5,1.0], to=FILE, overwrite=true.
"""

import torch
from rich.console import Console
from rich.table import Table

from fairat_lightning.__main__ import start
from fairat_lightning.build import part, short
from fairat_lightning.checks import reachable, switch
from fairat_lightning.models.weights import weights_file


def main() -> None:
    """Run the command; wrong input is one line and exit code 2."""
    start(_balance, __doc__ or "")


def _balance(words: list[str]) -> None:
    from fairat_lightning.classifier import compose, load
    from fairat_lightning.evaluation import class_robust
    from fairat_lightning.methods.base import SCORES
    from fairat_lightning.metrics import average, selection_score, worst

    cfg = compose("balance", words)
    if cfg.select not in SCORES:
        raise ValueError(f"select={cfg.select} is unknown: choose one of {', '.join(SCORES)}")
    found = load(cfg)
    if cfg.to is None and found.run is None:
        raise ValueError("to=FILE must be given: this checkpoint belongs to no run")
    if cfg.to is not None and (not isinstance(cfg.to, str) or not cfg.to):
        raise ValueError(f"to={cfg.to} must be a path")
    to = reachable(cfg.to) if cfg.to is not None else found.run / "checkpoints" / "balanced.ckpt"  # type: ignore[operator]
    if to.is_dir() or not to.absolute().parent.is_dir():
        raise ValueError(f"to={to} must be a file in a folder that exists")
    if to.resolve() == weights_file(cfg.checkpoint).resolve():
        raise ValueError(f"to={to} is the checkpoint itself: name another file")
    switch("overwrite", cfg.overwrite)
    if to.exists() and not cfg.overwrite:
        raise ValueError(f"to={to} exists: name another file, or overwrite=true")
    net, data, attack = found.net.to("cuda" if torch.cuda.is_available() else "cpu"), found.data, part(cfg, "attack")
    accuracies = []

    def score() -> float:
        accuracies.append(class_robust(net, data.val_dataloader(), attack, data.num_classes))
        return float(selection_score(accuracies[-1], cfg.select))

    head = part(cfg, "head")
    result = head.fit(net, data.num_classes, score)
    state = {name: value.cpu() for name, value in net.state_dict().items()}
    content = state if cfg.to is not None else {"state_dict": {f"net.{name}": v for name, v in state.items()}, "head": result}
    partial = to.with_name(f".{to.name}.partial")
    torch.save(content, partial)
    partial.replace(to)
    table = Table("strength", "PGD-10 average", "worst class", title="Validation", title_justify="left")
    for strength, accuracy in zip(head.strengths, accuracies, strict=True):
        mark = " *" if strength == result["strength"] else ""
        table.add_row(f"{strength:g}{mark}", f"{100 * average(accuracy):.1f}", f"{100 * worst(accuracy):.1f}")
    Console().print(table)
    print(f"balanced with strength {result['strength']:g}: {short(to.absolute())}")


if __name__ == "__main__":
    main()
