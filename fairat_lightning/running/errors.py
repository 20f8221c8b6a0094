"""Errors of the machine in the middle of a run, as one line each. Any other error is a bug, and is shown with its traceback."""

import errno
import re
from typing import Any

GOES_ON = "the same command continues from the last checkpoint"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM)
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")


class Diverged(RuntimeError):
    """The loss, a gradient or a weight is not finite."""


class Lost(RuntimeError):
    """Another process of the run has ended."""

    def __init__(self, line: str = f"another process of this run has ended: {GOES_ON}") -> None:
        super().__init__(line)


def no_memory(error: Exception) -> bool:
    """Whether the memory of the machine, or of its GPU, is full."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in NO_MEMORY)


def explain(error: Exception, cfg: Any, training: bool) -> str | None:
    """The line for an error that ended the run of `cfg`, in its training or after it; None for an unknown error."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if isinstance(error, Diverged | Lost):
        return str(error)
    if isinstance(error, MisconfigurationException):  # of a callback or logger of the user's choice
        return " ".join(str(error).split())
    if no_memory(error):
        return _memory(cfg, training)
    if "EADDRINUSE" in str(error):
        port = re.search(r"port: (\d+)", str(error))
        which = f"port {port[1]}" if port else "the port of the processes"
        return f"{which} is used by another program: set MASTER_PORT to a free port, or on one machine leave it unset"
    if "does not have a deterministic implementation" in str(error):
        return f"deterministic=true is not possible with this network: {str(error).split(',')[0]}; leave it out"
    if isinstance(error, OSError) and error.errno in FULL:
        place = error.filename or "a file of the run"
        return f"{place} cannot be written: {error.strerror}; when that is fixed, {GOES_ON}"
    return None


def _memory(cfg: Any, training: bool) -> str:
    if not training:
        size = cfg.data.eval_batch_size
        return f"out of memory with data.eval_batch_size={size}: try data.eval_batch_size={max(1, size // 2)} in a new run"
    size, times = cfg.data.batch_size, cfg.trainer.accumulate_grad_batches
    less = "" if cfg.checkpointing else ", or checkpointing=true"
    return (
        f"out of memory with data.batch_size={size}: set data.batch_size={max(1, size // 2)}"
        f" trainer.accumulate_grad_batches={2 * times}, which needs about half{less}"
    )
