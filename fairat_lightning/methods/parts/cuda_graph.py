"""A function of tensors as a CUDA graph: recorded at its first call, replayed at the others, with no Python between its kernels.

A training attack launches some thousands of small kernels, which a fast GPU finishes sooner than Python can launch them.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from fairat_lightning.awp import frozen_statistics

WARM_UP = 3  # calls before the recording, in which libraries choose their kernels


class Captured:
    """`function` of tensors, all on one CUDA device, that returns a tensor; recorded for each `key` and each shape.

    It may use the weights of `net`, which must change in place only, and torch's random numbers, whose stream continues as if it
    had been called once. Nothing else that it reads may change.
    """

    def __init__(self, net: nn.Module, function: Callable[..., Tensor]):
        self.net, self.function = net, function
        self.pool: Any = None
        self.refused = False  # whether it cannot be recorded, and is called as it is
        self.recorded: dict[Hashable, tuple[list[Tensor | None], Tensor, torch.cuda.CUDAGraph]] = {}

    def __call__(self, key: Hashable, *tensors: Tensor | None) -> Tensor:
        if self.refused:
            return self.function(*tensors)
        where = key, *(None if t is None else (t.shape, t.dtype) for t in tensors)
        if where not in self.recorded:
            random = torch.cuda.get_rng_state()
            try:
                self.recorded[where] = self._record(tensors)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # the network waits for the device, or does what no graph can hold
                self.refused = True
                print(f"compile=true: the attack runs without a CUDA graph ({str(error).splitlines()[0]})", flush=True)
                return self.function(*tensors)
            finally:
                torch.cuda.set_rng_state(random)
        inputs, output, graph = self.recorded[where]
        for place, tensor in zip(inputs, tensors, strict=True):
            if place is not None and tensor is not None:
                place.copy_(tensor)
        graph.replay()
        return output.clone()

    def _record(self, tensors: tuple[Tensor | None, ...]) -> tuple[list[Tensor | None], Tensor, torch.cuda.CUDAGraph]:
        inputs = [None if t is None else t.detach().clone() for t in tensors]
        side = torch.cuda.Stream()
        with frozen_statistics(self.net):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.function(*inputs)
            torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()  # one is replayed at a time, and what it gives is copied
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):  # NCCL's threads may use CUDA too
            output = self.function(*inputs)
        return inputs, output, graph
