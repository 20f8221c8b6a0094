"""Interruptions and the machine: stop and resume, several processes, SLURM, precision and memory, and what is printed."""

__all__ = ["checkpoints", "errors", "lightning_internals", "machine", "processes", "resume", "signals", "slurm", "terminal"]
