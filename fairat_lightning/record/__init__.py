"""What a run leaves in its folder, written and read back; nothing here needs torch."""

__all__ = [
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
