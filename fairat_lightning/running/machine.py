"""What a training runs on, made fast: precision, threads and memory of the processor, and the compiled network.

Every choice is a rule, measured once (`docs/performance.md`) and not again at each start, so that the same command on the same
machine is the same run to the bit.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fairat_lightning.attacks import mode

ONE_THREAD = 2e9  # FLOPs of a forward pass over a batch, below which a second thread costs more than it gives
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def best_precision(accelerator: str) -> str:
    """Lightning's name of the fastest precision that keeps float32 weights: "bf16-mixed" where the hardware has it."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if {"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags() else "32-true"


def slow_precision(cfg: Any) -> str | None:
    """The warning for a configuration that asks for bf16 where the hardware would have to imitate it; None where it has it.

    On processors without it a step takes 2 to 3 times as long as in float32 (measured).
    """
    accelerator, precision, crafted = cfg.trainer.accelerator, str(cfg.trainer.precision), cfg.attack.get("precision")
    on_cpu = accelerator == "cpu" or not torch.cuda.is_available()
    low = precision == "bf16-mixed" or (precision == "16-mixed" and on_cpu)
    asked, word = f"trainer.precision={precision}", "trainer.precision=32-true"
    if crafted == "bfloat16" and not low:
        asked, word = f"attack.precision={crafted}", "attack.precision=float32"
    elif not low:
        return None
    instead = "; on a CPU, bf16-mixed is used instead of 16-mixed" if (precision, low) == ("16-mixed", True) else ""
    if best_precision(accelerator) == "bf16-mixed":
        return f"warning: {asked}{instead}" if instead else None
    return f"warning: {asked}, but this machine has no bf16 hardware and is 2 to 3 times slower with it than with {word}{instead}"


def _cpu_flags() -> set[str]:
    """What /proc/cpuinfo says that the processor can do; nothing where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}


def begin_on(device: torch.device) -> None:
    """Let this GPU be the one that the record names, and measure the memory of this run alone."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.reset_peak_memory_stats()


def keep_memory() -> None:
    """Let glibc keep the memory that a step frees for the next one, instead of giving pages back and clearing them again.

    The activations of a batch of 128 are larger than what glibc keeps by default. Nothing happens elsewhere, nor where the
    environment has settings of malloc already.
    """
    tuned = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or tuned:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)  # older ones take no more


def threads_for(net: nn.Module, batch: torch.Tensor) -> int:
    """The number of threads: one for a network too small for two, else all, unless OMP_NUM_THREADS is set. `batch` (B,C,H,W)."""
    small = "OMP_NUM_THREADS" not in os.environ and len(batch) * flops(net, batch[:1]) < ONE_THREAD
    return 1 if small else torch.get_num_threads()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Use this number of threads within the block, and the former number afterwards: the runs of a sweep share a process."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def flops(net: nn.Module, x: torch.Tensor) -> int:
    """Floating-point operations of a forward pass in eval mode over images (B,C,H,W); a multiply-add is two."""
    with mode(net, training=False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    return int(counter.get_total_flops())


def largest_batch(step: Callable[[int], Any], *, least: int = 64, most: int = 8192) -> int:
    """The largest of `least`, 2 `least`, ... `most` for which `step(images)` has memory, with a quarter to spare.

    Raises ValueError where not even `least` images fit.
    """
    size = 0
    while (wanted := 2 * size or least) <= most:
        try:
            step(wanted + wanted // 4)
            size = wanted
        except torch.OutOfMemoryError:
            break
    torch.cuda.empty_cache()  # not while the error holds what did not fit
    if not size:
        raise ValueError(f"batch_size=auto: not even {least} images fit into the memory; set a smaller batch_size")
    return size


def compile_network(net: Any, device: torch.device) -> str | None:
    """Compile `net` in place for `device`, its weights keep their names; the reason, in one line, where that is not possible."""
    try:
        probe = torch.compile(lambda x: torch.sin(x) + 1)
        probe(torch.zeros(2, device=device))
    except Exception as error:  # no compiler, no Triton, or no support for this Python: many types, one meaning
        return str(error).strip().splitlines()[0][:200]
    torch._dynamo.reset()  # what earlier runs of this process have compiled counts against a limit, beyond which nothing is
    net.compile()
    return None
