"""What a run leaves in its folder, written and read back; nothing here needs torch."""

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

BEST = "best.ckpt"  # below a run's checkpoints/: the weights that its test judged
