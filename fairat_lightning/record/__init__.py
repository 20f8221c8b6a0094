"""What a run leaves in its folder, written and read back.

Torch is imported only when weights or the machine are looked at (`fingerprint.py`, `environment.py`).
"""

__all__ = [
    "BEST",
    "atomic_write",
    "attack_titles",
    "environment",
    "fingerprint",
    "identity",
    "journal",
    "old_names",
    "reader",
    "secrets",
    "writer",
]

BEST = "best.ckpt"  # below a run's checkpoints/: the weights that its test evaluated
