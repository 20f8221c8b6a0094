"""From the words of a command to the parts of a run: compose, check what may be named, build."""

__all__ = ["build", "classifier", "compose", "home", "targets"]
