"""How many floating-point operations a job needs, from the shapes of its network alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from featvis_jax.nn.cnn import CNN


class Convolution(NamedTuple):
    """A convolution of a foreign network.

    Attributes:
      kernel: Shape of its weights, in any order of the axes; of groups, what one output meets.
      positions: Places of the kernel: voxels of the output, of a transposed one of the input.
      channels: Of its output.
    """

    kernel: tuple[int, ...]
    positions: int
    channels: int


def foreign_flop(convolutions: Sequence[Convolution]) -> int:
    """Operations of one ascent step for one image on one channel of a foreign network's target.

    As of `ascent_flop`; normalizations and activations are left out, too.

    Args:
      convolutions: Those that the target comes from, the target last.

    Example:
      >>> stem, target = Convolution((8, 1, 3, 3), 100, 8), Convolution((4, 8, 1, 1), 100, 4)
      >>> foreign_flop([stem, target]) == 4 * (100 * 72 + 100 * 8)
      True
    """
    products = [each.positions * math.prod(each.kernel) for each in convolutions]
    products[-1] //= convolutions[-1].channels
    return 2 * 2 * sum(products)


def place_of_target(count: int) -> int:
    """Which convolution is the target: the one at 80 % of the depth, from 0.

    Args:
      count: Calls of convolutions in a forward pass; transposed ones are not counted.

    Example:
      >>> [place_of_target(count) for count in (1, 5, 7, 53)]
      [0, 4, 5, 42]
    """
    return count * 4 // 5


def ascent_flop(module: CNN, image_shape: tuple[int, ...], layer: str, *, one_channel: bool) -> int:
    """Operations of one ascent step for one image.

    The convolutions up to the target, forward and for the gradient of their input; additions and
    multiplications both count. Poolings, ReLUs and the optimizer are left out, as is what a
    formulation computes beyond need.

    Args:
      module: The network.
      image_shape: ``(*spatial, 1)``.
      layer: The target, ``conv1`` to ``conv5``.
      one_channel: Whether one channel of the target is all that is needed.
    """
    total = 0
    for name, voxels, inputs, outputs, taps in _convolutions(module, image_shape):
        is_target = name == layer
        total += 2 * (2 * voxels * inputs * (1 if is_target and one_channel else outputs) * taps)
        if is_target:
            return total
    raise ValueError(f"There is no convolution {layer!r}.")


def training_flop(module: CNN, image_shape: tuple[int, ...]) -> int:
    """Operations of one training step for one image: forward, and both gradients of each layer.

    Args:
      module: The network.
      image_shape: ``(*spatial, 1)``.
    """
    total = 0
    for name, voxels, inputs, outputs, taps in _convolutions(module, image_shape):
        passes = 2 if name == "conv1" else 3  # Nobody asks for the gradient of a training image.
        total += passes * 2 * voxels * inputs * outputs * taps
    return total


def _convolutions(
    module: CNN, image_shape: tuple[int, ...]
) -> list[tuple[str, int, int, int, int]]:
    """Name, output voxels, inputs, outputs and taps of every convolution (no padding)."""
    sides, inputs, found = list(image_shape[:-1]), image_shape[-1], []
    for number, (outputs, pool) in enumerate(zip(module.features, module.pools, strict=True), 1):
        sides = [side - module.kernel_size + 1 for side in sides]
        taps = module.kernel_size**module.rank
        found.append((f"conv{number}", math.prod(sides), inputs, outputs, taps))
        if pool is not None:
            window, stride = pool
            sides = [(side - window) // stride + 1 for side in sides]
        inputs = outputs
    return found
