"""Train a classifier: `python -m fairat_lightning [group=option] [key=value]`. Wrong input is one line and exit code 2."""

from fairat_lightning.commands.train import main

if __name__ == "__main__":
    main()
