"""The same work in PyTorch, as its users write it: for a comparison, where torch is installed."""

# pyright: reportMissingImports=false

import json
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from experiments.benchmarks import torch_foreign
from experiments.benchmarks.torch_descent import CHANNELS_LAST, descent, device
from experiments.benchmarks.torch_process import serve
from featvis_jax.commands import allocator
from featvis_jax.nn.cnn import CNN

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_POOLING = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def ascent(
    module: CNN,
    image_shape: tuple[int, ...],
    layer: str,
    *,
    layer_l1: bool = False,
    neuron: bool = False,
    batch: int,
    learning_rate: float,
) -> Callable[[int], float]:
    """An ascent on the first `batch` channels of a layer.

    The network ends at the target layer, its weights are frozen, images are optimized in one batch
    and channels_last, and the wanted channels are picked from the whole layer.

    Args:
      module: The network, for its shapes.
      image_shape: ``(*spatial, 1)``.
      layer: The target.
      layer_l1: Whether the mean of the layer's absolute values is a penalty of weight 10.
      neuron: Whether each channel is driven in the middle of its grid alone.
      batch: Images.
      learning_rate: Of Adam.

    Returns:
      A function that takes a number of steps and returns the seconds that they took.
    """
    rank = module.rank
    layout, place = CHANNELS_LAST[rank], device()
    network = _network(module, until=layer).to(place, memory_format=layout)  # pyright: ignore
    network.requires_grad_(False)
    images = torch.rand(batch, 1, *image_shape[:-1]).to(place, memory_format=layout)
    places = torch.arange(batch, device=place)
    channels = places % network[-1].out_channels  # pyright: ignore

    def loss(images: torch.Tensor) -> torch.Tensor:
        activations = network(images)
        wanted = activations[places, channels]
        if neuron:
            wanted = wanted[(..., *(side // 2 for side in wanted.shape[1:]), None)]
        total = -wanted.flatten(1).mean(1).sum()
        if layer_l1:
            total = total + 10 * activations.abs().flatten(1).mean(1).sum()
        return total

    return descent(images, loss, learning_rate=learning_rate)


def training(module: CNN, image_shape: tuple[int, ...], *, batch: int) -> Callable[[int], float]:
    """Training on random images, with Adam and weight decay.

    Args:
      module: The network, for its shapes.
      image_shape: ``(*spatial, 1)``.
      batch: Images.

    Returns:
      A function that takes a number of steps and returns the seconds that they took.
    """
    layout = CHANNELS_LAST[module.rank]
    images = torch.rand(batch, 1, *image_shape[:-1]).to(device(), memory_format=layout)
    labels = torch.arange(batch, device=images.device) % module.num_classes
    network = _network(module, until=None).to(device())
    with torch.no_grad():
        features = network(images[:1]).flatten(1).shape[1]
    network = nn.Sequential(network, nn.Flatten(), nn.Linear(features, module.num_classes))
    network = network.to(device(), memory_format=layout)  # pyright: ignore
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        if images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return run


def _network(module: CNN, *, until: str | None) -> nn.Sequential:
    """The convolutional part, whole or up to a convolution."""
    parts: list[nn.Module] = []
    inputs = 1
    for number, (outputs, pool) in enumerate(zip(module.features, module.pools, strict=True), 1):
        parts.append(_CONVOLUTION[module.rank](inputs, outputs, module.kernel_size))
        if until == f"conv{number}":
            break
        parts.append(nn.ReLU())
        if pool is not None:
            parts.append(_POOLING[module.rank](*pool))
        inputs = outputs
    return nn.Sequential(*parts)


def main(job: str, text: str) -> None:
    """Take as many steps as each line asks for, and answer with the seconds.

    Args:
      job: ``"ascent"`` or ``"training"``, or ``"foreign"``, `experiments.benchmarks.torch_foreign`.
      text: The arguments of that function as JSON, with ``"rank"`` in place of our own network.
    """
    allocator.keep_freed_memory()
    options = json.loads(text)
    if "rank" in options:
        options["module"] = CNN(rank=options.pop("rank"))
    options["image_shape"] = tuple(options["image_shape"])
    serve({"ascent": ascent, "training": training, "foreign": torch_foreign.ascent}[job](**options))


if __name__ == "__main__":
    main(*sys.argv[1:])
