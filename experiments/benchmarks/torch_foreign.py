r"""PyTorch's side of the foreign networks: ascents as its users write them, and what to compare.

    python -m experiments.benchmarks.torch_foreign monai_vnet DIRECTORY \
        '{"image_shape": [48, 48, 48, 1], "batches": [1, 2, 4], "steps": 1}'

writes a network as ONNX into a directory, an image, what the target makes of it, and by trials of
so many steps which batch and layout PyTorch is fastest with.
"""

# pyright: reportMissingImports=false

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from experiments.benchmarks import arithmetic, torch_networks
from experiments.benchmarks.torch_descent import CHANNELS_LAST, descent, device
from featvis_jax.commands import allocator


class _Reached(Exception):
    """Leaves the forward pass at the target."""

    def __init__(self, activation: torch.Tensor):
        super().__init__()
        self.activation = activation


class _Cut:
    """A network up to its target, the convolution at `arithmetic.place_of_target`."""

    def __init__(self, module: nn.Module, image: torch.Tensor):
        self._module, self._calls = module, 0
        convolutions = [part for part in module.modules() if _is_target(part)]
        counting = [part.register_forward_hook(self._count) for part in convolutions]
        with torch.no_grad():
            module(image)
        for hook in counting:
            hook.remove()
        self.place = arithmetic.place_of_target(self._calls)
        self.target = ""
        self._names = {part: name for name, part in module.named_modules()}
        for part in convolutions:
            part.register_forward_hook(self._leave)

    def _count(self, *_: Any) -> None:
        self._calls += 1

    def _leave(self, part: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if self._calls == self.place:
            self.target = self._names[part]
            raise _Reached(output)
        self._calls += 1

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """What the target makes of images, ``(batch, channels, *spatial)``."""
        self._calls = 0
        try:
            self._module(images)
        except _Reached as reached:
            return reached.activation
        raise AssertionError("The network ended before its target.")


def _is_target(part: nn.Module) -> bool:
    return isinstance(part, _ConvNd) and not isinstance(part, _ConvTransposeNd)


def ascent(
    name: str, image_shape: tuple[int, ...], *, batch: int, channels_last: bool
) -> Callable[[int], float]:
    """An ascent on the first `batch` channels of the target of a foreign network.

    Its weights are frozen, the forward pass ends at the target, images are optimized in one batch,
    and the wanted channels are picked from the whole layer.

    Args:
      name: One of `experiments.benchmarks.foreign.NETWORKS`.
      image_shape: ``(*spatial, channels)``.
      batch: Images.
      channels_last: The layout of images and weights; else contiguous.

    Returns:
      A function that takes a number of steps and returns the seconds that they took.
    """
    module = torch_networks.network(name).to(device())
    images = _images(image_shape, batch).to(device())
    network = _Cut(module, images[:1])
    if channels_last:
        layout = CHANNELS_LAST[len(image_shape) - 1]
        module.to(memory_format=layout)  # pyright: ignore
        images = images.to(memory_format=layout)
    places = torch.arange(batch, device=images.device)

    def loss(images: torch.Tensor) -> torch.Tensor:
        activations = network(images)
        wanted = activations[places, places % activations.shape[1]]
        return -wanted.flatten(1).mean(1).sum()

    return descent(images, loss, learning_rate=0.05)


def _images(image_shape: tuple[int, ...], batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(batch, image_shape[-1], *image_shape[:-1], generator=generator)


def describe(name: str, image_shape: tuple[int, ...], directory: Path) -> dict[str, Any]:
    """What the other side has to know of a network.

    Args:
      name: One of `experiments.benchmarks.foreign.NETWORKS`.
      image_shape: ``(*spatial, channels)``.
      directory: Where ``network.onnx`` is written, whose normalizations are nodes of their own, and
        ``image.npy`` and ``activation.npy``, channels last.

    Returns:
      The path of the target's module, the convolutions that a step needs, and the bytes of their
      weights.
    """
    module, image = torch_networks.network(name), _images(image_shape, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # On which exporter to take, and on constants.
        torch.onnx.export(
            module,
            (image,),
            str(directory / "network.onnx"),
            dynamo=False,
            # Else it folds normalizations into convolutions, and the two sides would differ.
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    network = _Cut(module, image)
    needed, weight_bytes = _needed(module, network, image)
    activation = network(image).detach()
    for file, values in (("image", image), ("activation", activation)):
        np.save(directory / f"{file}.npy", np.moveaxis(values[0].numpy(), 0, -1))
    return {"target": network.target, "needed": needed, "weight_bytes": weight_bytes}


def _needed(
    module: nn.Module, network: _Cut, image: torch.Tensor
) -> tuple[list[arithmetic.Convolution], int]:
    """The convolutions that the target comes from, in order, and the bytes of all weights up to it.

    A convolution that the gradient does not reach, as one on a branch that is added later, is not
    needed.
    """
    calls: list[arithmetic.Convolution] = []
    reached: set[int] = set()
    weights: dict[int, int] = {}

    def record(part: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        weights.update((id(tensor), tensor.nbytes) for tensor in own)
        if not isinstance(part, _ConvNd):
            return
        # Each position of the input of a transposed convolution meets the whole kernel.
        grid = inputs[0] if isinstance(part, _ConvTransposeNd) else output
        number = len(calls)
        convolution = arithmetic.Convolution(
            tuple(part.weight.shape), grid[0, 0].numel(), part.out_channels
        )
        calls.append(convolution)
        output.register_hook(lambda _: reached.add(number))

    hooks = [part.register_forward_hook(record, prepend=True) for part in module.modules()]
    network(image.clone().requires_grad_(True)).mean().backward()
    for hook in hooks:
        hook.remove()
    return [calls[number] for number in sorted(reached)], sum(weights.values())


def fastest(
    name: str, image_shape: tuple[int, ...], *, batches: Sequence[int], steps: int
) -> dict[str, Any]:
    """The batch and the layout with which PyTorch takes the least time for an image.

    Args:
      name: One of `experiments.benchmarks.foreign.NETWORKS`.
      image_shape: ``(*spatial, channels)``.
      batches: To choose from.
      steps: Of each of two trials.

    Returns:
      Options of `ascent`.
    """
    best, least = {}, float("inf")
    for channels_last in (False, True):
        for batch in batches:
            run = ascent(name, image_shape, batch=batch, channels_last=channels_last)
            seconds = min(run(steps), run(steps)) / batch
            if seconds < least:
                best, least = {"batch": batch, "channels_last": channels_last}, seconds
    return best


def main(name: str, directory: str, text: str) -> None:
    """Describe a network, and find out how PyTorch takes it best."""
    allocator.keep_freed_memory()
    options = json.loads(text)
    image_shape = tuple(options.pop("image_shape"))
    description = describe(name, image_shape, Path(directory))
    description["fastest"] = fastest(name, image_shape, **options)
    (Path(directory) / "description.json").write_text(json.dumps(description))


if __name__ == "__main__":
    main(*sys.argv[1:])
