"""Keep the network of a finished run in the package, as `pretrained:NAME`.

    python studies/keep.py RUN NAME        NAME is <data>_<method>_s<seed>, as in cifar10_faal_s0

Written are model.safetensors and the card of the export, model, data and attack of the run's configuration, and the classes. Give
the command where the run was trained if its data.root is relative.
"""

import re

import yaml

from fairat_lightning import pretrained
from fairat_lightning.commands import export
from fairat_lightning.commands.cli import start
from fairat_lightning.config.compose import GROUPS
from fairat_lightning.config.targets import stored
from fairat_lightning.record.atomic_write import write
from fairat_lightning.record.reader import read_facts, read_metrics
from fairat_lightning.settings import reachable
from fairat_lightning.standalone.folder import CARD, CODE

LOAD = """## Load it

The network comes with fairat_lightning, whose commands take it by its name, `checkpoint={name}` or `init_from={name}`:

    python -m fairat_lightning.evaluate checkpoint={name}
    python -m fairat_lightning.export checkpoint={name} to=FOLDER

The second writes this folder with `model.py`, for whoever has no fairat_lightning:
"""


def keep(words: list[str]) -> None:
    """Export the run into the package; ValueError for an unfinished run, a name of another form or one that is taken."""
    if len(words) != 2:
        raise ValueError("two words are needed: RUN NAME")
    run, name = reachable(words[0]), words[1]
    metrics = read_metrics(run)
    if metrics is None:
        raise ValueError(f"{run} is not a finished run")
    seed = read_facts(run)["seed"]
    if not re.fullmatch(rf"[a-z0-9]+(_[a-z0-9]+)+_s{seed}", name):
        raise ValueError(f"NAME={name} must be <data>_<method>_s{seed}, in small letters")
    folder = pretrained.HERE / name
    export.main([f"checkpoint={run}", f"to={folder}"])
    (folder / CODE).unlink()
    card = (folder / CARD).read_text()
    card = re.sub(r"(?m)^# license: .*", "license: apache-2.0", card)
    card = re.sub(r"(?m)^- license: .*", "- license: Apache-2.0, as fairat_lightning", card)
    card = card.replace("## Load it\n", LOAD.format(name=pretrained.PREFIX + name))
    write(folder / CARD, card)
    config = stored(run, GROUPS)
    config["data"]["root"] = None  # of another machine
    config["classes"] = list(metrics["clean"]["per_class"])
    write(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))  # last: with it the name is there


if __name__ == "__main__":
    start(keep, __doc__ or "")
