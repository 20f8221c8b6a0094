"""A hash of tensors: which weights or images a verdict is about."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and contents."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()[:16]


def of_evaluated(pixels: Tensor, targets: Tensor, index: Tensor) -> str:
    """`fingerprint` of images uint8 (N,C,H,W), their labels (N,) and their places in the set (N,)."""
    return fingerprint({"pixels": pixels, "targets": targets, "index": index})


def of_images(images: Any) -> str:
    """`of_evaluated` of all images of a set."""
    import torch

    return of_evaluated(images.pixels[:], images.targets, torch.arange(len(images)))
