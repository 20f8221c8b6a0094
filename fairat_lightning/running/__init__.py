"""Interruptions and the machine: stop and resume, several processes, SLURM, precision and memory, and what is printed."""
