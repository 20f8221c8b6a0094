"""Staying alive: stop and go on, several processes, SLURM, what the machine can do, and what is said meanwhile."""

__all__ = ["checkpoints", "errors", "lightning_internals", "machine", "processes", "resume", "signals", "slurm", "terminal"]
