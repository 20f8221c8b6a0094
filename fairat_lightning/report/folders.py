"""Which folders the arguments of the command name: a run's own, or the finished runs in a folder, such as that of a sweep."""

from pathlib import Path

from fairat_lightning.pretrained import PREFIX, located
from fairat_lightning.record.reader import evaluations
from fairat_lightning.report.card import is_card

HYDRA = ("multirun.yaml", "optimization_results.yaml")  # that a sweep leaves beside its runs, where FOLDER/* finds them


def split(word: str) -> tuple[str | None, Path]:
    """The label, if there is one, and the folder of one argument; a folder's own "=" is not taken for a label's."""
    if not word or word.endswith("="):
        raise ValueError(f"'{word}' names no folder: give the folder of a run, or LABEL=FOLDER")
    if Path(word).is_dir():
        return None, Path(word)
    parts = word.split("=")
    for k in range(1, len(parts)):
        folder = _place("=".join(parts[k:]))
        if str(folder) != "." and folder.is_dir():
            return _label("=".join(parts[:k]), word), folder
    label, found, name = word.rpartition("=")
    return (_label(label, word) if found else None), _place(name)


def _place(name: str) -> Path:
    """A folder, that of a network of the package by its name, or one below ~."""
    return located(name) if name.startswith(PREFIX) else Path(name).expanduser()


def _label(label: str, word: str) -> str:
    if not label.strip() or not label.isprintable():
        raise ValueError(f"{word!r} has an empty or unprintable label: write LABEL=RUN")
    return label


def runs_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders with figures that `folder` means, and those that have begun and hold none yet.

    That is `folder` itself, unless it is no run: then what lies directly in it. Nothing is checked where nothing is found:
    `runs.read_run` says what is wrong with a folder. ValueError, one line, where all in it is unfinished.
    """
    if folder.name in HYDRA and folder.is_file():
        return [], []
    if not folder.is_dir() or _finished(folder) or _begun(folder):
        return [folder], []
    inside = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    done = [place for place in inside if _finished(place)]
    waiting = [place for place in inside if _begun(place) and not _finished(place)]
    if waiting and not done:
        raise ValueError(f"{folder} holds no finished run; not finished yet: {', '.join(place.name for place in waiting)}")
    return done or [folder], waiting


def _finished(folder: Path) -> bool:
    return any((place / "metrics.json").exists() for place in (folder, *evaluations(folder))) or is_card(folder)


def _begun(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.yaml", "run.json"))
