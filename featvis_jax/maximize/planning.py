"""Which units run together: batches of one size that fit into memory."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import jax

from featvis_jax import memory
from featvis_jax.nn.network import Network

_BYTES = 4  # Of a float32.
# Beyond these batches a device is no faster (see docs/performance.md); on CPU smaller ones keep the
# activations of a batch near the caches.
_LARGEST_BATCH = {"cpu": 4, "gpu": 64, "tpu": 64}


@dataclasses.dataclass(frozen=True)
class Batch:
    """Units that run together.

    Attributes:
      channels: Channel of each place in the batch; places past `count` repeat the last channel.
      count: Number of places that are asked for.
    """

    channels: tuple[int, ...]
    count: int


def batches(channels: Sequence[int], *, batch_size: int) -> list[Batch]:
    """Deal channels into batches of one size, padding the last.

    The deal depends on the channels asked for and the size alone. A run that is resumed skips whole
    batches and never repacks them, since a program for another size rounds otherwise, and what an
    ascent makes of that is another image.

    Args:
      channels: Channel numbers, in order.
      batch_size: Units per batch, at least 1.

    Example:
      >>> batches([0, 1, 5], batch_size=2)
      [Batch(channels=(0, 1), count=2), Batch(channels=(5, 5), count=1)]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    parts = [
        tuple(channels[start : start + batch_size]) for start in range(0, len(channels), batch_size)
    ]
    return [Batch(part + part[-1:] * (batch_size - len(part)), len(part)) for part in parts]


def even_size(num_units: int, largest: int) -> int:
    """Size of the fewest batches of at most `largest` units, with as little padding as can be.

    Example:
      >>> even_size(32, 12), even_size(2, 16)
      (11, 2)
    """
    num_batches = -(-num_units // largest)
    return -(-num_units // num_batches)


def largest_useful_size(*, num_devices: int | None = None) -> int:
    """Units per batch beyond which a larger batch is no faster on this platform.

    Args:
      num_devices: Devices that share a batch; by default all of this process.

    Example:
      >>> largest_useful_size() >= 1
      True
    """
    num_devices = jax.local_device_count() if num_devices is None else num_devices
    return num_devices * _LARGEST_BATCH.get(jax.default_backend(), 16)


def largest_batch(
    compile_batch: Callable[[int], jax.stages.Compiled],
    *,
    num_units: int,
    num_devices: int | None = None,
    memory_bytes: int | None = None,
) -> tuple[int, jax.stages.Compiled]:
    """Find the largest useful batch whose program fits into memory.

    Starts from the largest batch that pays on these devices, split evenly over the units, and
    shrinks it by what the compiled program says it needs on each of them. Where devices share a
    memory that does not hold a unit for each, fewer of them run.

    Args:
      compile_batch: Compiles the program for a batch size.
      num_units: Units to run.
      num_devices: Devices that share a batch; by default all of this process.
      memory_bytes: What the program may take at most on each; by default what is free.

    Returns:
      The batch size and its program.

    Raises:
      ValueError: There are no units.
      MemoryError: Not even one unit fits.
    """
    if num_units < 1:
        raise ValueError(f"num_units is {num_units}; expected at least 1.")
    present = jax.local_device_count() if num_devices is None else num_devices
    size = even_size(num_units, largest_useful_size(num_devices=present))
    while True:
        program = compile_batch(size)
        needed, free = memory.program_bytes(program), memory_bytes
        if free is None:
            free = memory.free_bytes(num_devices=min(size, present))
        if needed <= free:
            return size, program
        if size == 1:
            raise MemoryError(
                f"One unit needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
                "free: use a smaller input grid, an earlier layer, or a larger machine, or, of a "
                "deep network, rematerialize."
            )
        size = max(1, min(size - 1, int(size * free / needed)))


def estimated_unit_bytes(network: Network, layer: str) -> int:
    """About what one unit of a layer takes, from shapes alone and without compiling anything.

    Twice the outputs of all layers before it, since the ascent keeps each until its gradient is
    known, and eight images: parameters, gradient, Adam's moments, transformed copies. A module that
    ends with another returns that one's output, which counts once. Compiled programs
    of the paper's network take 0.5 to 1.5 times as much, those of others 0.2 to 2.4 times.

    Args:
      network: The network.
      layer: One of its layers.

    Example:
      >>> from featvis_jax.nn.network import Layer, Network
      >>> layers = (
      ...     Layer("block.conv1", "Conv", (8, 8, 4), 3, 1, True),
      ...     Layer("block", "Block", (8, 8, 4), 3, 1, True),
      ...     Layer("conv2", "Conv", (6, 6, 2), 5, 1, True),
      ... )
      >>> network = Network(None, None, {}, (10, 10, 1), layers)
      >>> estimated_unit_bytes(network, "conv2") == 4 * (8 * 10 * 10 + 2 * 8 * 8 * 4)
      True
    """
    names = [each.name for each in network.layers]
    before = network.layers[: names.index(network.layer(layer).name)]
    counted_within = {
        each.name
        for previous, each in itertools.pairwise(before)
        if previous.shape == each.shape
        and previous.name.startswith((f"{each.name}.", f"{each.name}/"))
    }
    outputs = sum(math.prod(each.shape) for each in before if each.name not in counted_within)
    return _BYTES * (8 * math.prod(network.image_shape) + 2 * outputs)
