"""What a run leaves in its folder, written and read back.

Torch is imported only when weights or the machine are looked at (`fingerprint.py`, `environment.py`).
"""

BEST = "best.ckpt"  # below a run's checkpoints/: the weights that its test evaluated
