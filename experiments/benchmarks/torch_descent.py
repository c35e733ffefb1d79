"""Steps of an ascent in PyTorch, whatever the network."""

# pyright: reportMissingImports=false

import os
import time
from collections.abc import Callable

import torch

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
"""PyTorch's second layout, by the rank of an image."""


def device() -> torch.device:
    """Where the other side runs, too: a GPU, where there is one and JAX may use it."""
    has_gpu = torch.cuda.is_available() and os.environ.get("JAX_PLATFORMS", "") != "cpu"
    return torch.device("cuda" if has_gpu else "cpu")


def descent(
    images: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor], *, learning_rate: float
) -> Callable[[int], float]:
    """Steps of Adam on images that stay within 0 and 1.

    Args:
      images: Where to start; they are changed.
      loss: Of the images.
      learning_rate: Of Adam.

    Returns:
      A function that takes a number of steps and returns the seconds that they took.
    """
    images.requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=learning_rate)

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss(images).backward()
            optimizer.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        if images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return run
