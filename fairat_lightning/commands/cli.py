"""From the arguments of a command line to a command that runs; and `fairat`, which opens every command."""

import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fairat_lightning.commands.errors import ending, refuse
from fairat_lightning.settings import nearest

COMMANDS = {
    "train": "train a classifier, or a sweep of them with -m",
    "evaluate": "evaluate a classifier class by class, by attacks up to AutoAttack",
    "report": "compare finished runs: tables, figures, one page",
    "export": "write a trained network as a folder that needs neither this package nor Lightning",
    "search": "search for hyper-parameters on the validation split",
    "balance": "balance the last layer of a trained classifier between the classes",
    "reproduce": "reproduce a published table",
}


@ending()
def start(command: str | Callable[[list[str]], None], text: str) -> None:
    """Run a command that takes key=value, with the arguments of its line: the module of that name in this folder, or a function.

    `text` is its help.
    """
    words = sys.argv[1:]
    asked = not words or {"-h", "--help"} & set(words)
    if asked:
        print(text.strip())
    if not asked or len(words) > 1:
        from fairat_lightning.config.words import own_options, with_config_dir

        try:
            own = own_options(words) if asked else []
            words = with_config_dir(words)
        except ValueError as error:
            refuse(error)
    if asked:
        if len(words) > 1 and own:
            print(f"\nOptions in your own folder: {'  '.join(own)}")
        raise SystemExit(0 if words else 2)
    if flags := [word for word in words if word.startswith("-")]:
        refuse(f"there is no flag {flags[0]}: this command accepts key=value, --config-dir FOLDER and --help")
    from fairat_lightning.config.compose import WRONG_INPUT
    from fairat_lightning.config.home import expanded

    keys: Any = ()
    try:
        if isinstance(command, str):
            module = import_module(f"fairat_lightning.commands.{command}")
            keys = getattr(module, "OWN", ())  # beside those that it hands on to trainings
            module.main(expanded(words))
        else:
            command(expanded(words))
    except WRONG_INPUT as error:
        refuse(error, keys=keys)


@ending()
def fairat() -> None:
    """The console script: `fairat COMMAND ...` is `python -m fairat_lightning.COMMAND ...`."""
    name, words = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]
    if name in COMMANDS:
        sys.argv[1:] = words
        module = "fairat_lightning" if name == "train" else f"fairat_lightning.{name}"
        runpy.run_module(module, run_name="__main__", alter_sys=True)  # so that other processes are started by its name
        return
    if name and name not in ("-h", "--help"):
        like = f"; did you mean fairat train {name}?" if "=" in name else nearest(name, COMMANDS)
        refuse(f"there is no command {name}: choose one of {', '.join(COMMANDS)}{like}")
    print("fairat COMMAND [key=value ...]: image classifiers that are adversarially robust for every class\n")
    for command, what in COMMANDS.items():
        print(f"  fairat {command:10} {what}")
    print("\n`fairat COMMAND --help` explains each command.")
    print("`python -m fairat_lightning.COMMAND` is the same, and `python -m fairat_lightning` trains.")
    raise SystemExit(0 if name else 2)
