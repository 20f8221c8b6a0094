"""Keep the finished runs of a table so that another machine can add rows to it: every record and verdict, no
checkpoints, no pictures, and no cross-entropy of single images.

    python studies/archive.py pack RUNS ARCHIVE [ROW-sSEED=NAME ...]     NAME: the run's network in the package, pretrained:NAME
    python studies/archive.py unpack ARCHIVE RUNS

RUNS is the folder of a table's runs, runs/reproduce/faal-night. What is unpacked there is finished for
`fairat_lightning.reproduce` with the same words, which pairs new rows with it, image by image. Runs whose network comes with the
package get its weights, so that new rows start from them.
"""

import io
import shutil
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fairat_lightning import pretrained
from fairat_lightning.record import journal

WEIGHTS, NETWORKS = "model.safetensors", "networks.txt"
LEFT_OUT = ("checkpoints", "classes.png", "hardest.npz", ".lock", WEIGHTS, "report")


def pack(runs: Path, archive: Path, networks: dict[str, str]) -> None:
    """Write the records of the finished runs in `runs`; `networks` are the names of those that the package holds, by run."""
    finished = sorted(place.parent for place in runs.glob("*/metrics.json"))
    if not finished:
        raise ValueError(f"{runs} holds no finished run")
    if unknown := sorted(set(networks) - {run.name for run in finished}):
        raise ValueError(f"{unknown[0]} is no finished run in {runs}")
    for name in networks.values():
        pretrained.located(pretrained.PREFIX + name)
    with tarfile.open(archive, "w:xz") as tar:
        for run in finished:
            for path in sorted(run.rglob("*")):
                if path.is_file() and not set(path.relative_to(runs).parts) & set(LEFT_OUT):
                    with without_losses(path) as kept:
                        tar.add(kept, path.relative_to(runs).as_posix(), filter=anonymous)
        text = "".join(f"{run} {name}\n" for run, name in sorted(networks.items())).encode()
        entry = tarfile.TarInfo(NETWORKS)
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))


@contextmanager
def without_losses(path: Path) -> Iterator[Path]:
    """The file itself; of a journal with losses a copy that has the verdicts alone, which are all that a report pairs."""
    header, batches = journal.read(path) or ({}, []) if path.name == journal.NAME else ({}, [])
    if not any(batch.loss for batch in batches):
        yield path
        return
    with TemporaryDirectory() as place:
        journal.write(copy := Path(place) / path.name, header, [replace(batch, loss=None) for batch in batches])
        copy.chmod(path.stat().st_mode)
        yield copy


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """A file's entry without its owner and its time: the same runs give the same archive."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def unpack(archive: Path, runs: Path) -> None:
    """Unpack the runs that are not in `runs` yet, and give them the weights that the package holds."""
    with tarfile.open(archive, "r:xz") as tar:
        listed = tar.extractfile(NETWORKS)
        assert listed is not None
        networks = dict(line.split() for line in listed.read().decode().splitlines())
        there = {path.name for path in runs.glob("*") if path.is_dir()}
        for entry in tar:
            if entry.name != NETWORKS and entry.name.partition("/")[0] not in there:
                tar.extract(entry, runs, filter="data")
    for run, name in networks.items():
        if run not in there:
            shutil.copy(pretrained.located(pretrained.PREFIX + name) / WEIGHTS, runs / run / WEIGHTS)


def main(words: list[str]) -> None:
    if len(words) < 3 or words[0] not in ("pack", "unpack"):
        print((__doc__ or "").strip())
        raise SystemExit(0 if {"-h", "--help"} & set(words) else 2)
    try:
        if words[0] == "pack":
            pack(Path(words[1]), Path(words[2]), dict(word.split("=", 1) for word in words[3:]))
        else:
            unpack(Path(words[1]), Path(words[2]))
    except (ValueError, OSError, tarfile.TarError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
