"""A batch in parts of a fixed size, one after the other on each device, put together in order.

What a batch gives is a matter of its images and the size of its parts alone: every part goes
through the same program, and results are added up in the order of the images, on however many
devices. The parts also bound the memory that a step takes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from featvis_jax.nn.ops.fusion import apart

_AXIS = "microbatches"
# On a CPU so many voxels stay near the caches of a core; more at once are no faster.
_VOXELS_ON_CPU = 2**17
# Parts of more voxels keep all cores busy one at a time, and take a part's memory.
_VOXELS_FOR_ALL_CORES = 2**22


def default_size(batch_size: int, image_shape: Sequence[int]) -> int:
    """Images of a part, where nobody says it.

    On a CPU it depends on the images alone, so that a training gives the same weights on every
    number of cores. Elsewhere each device of this process takes its share at once.

    Args:
      batch_size: Images of a batch; a multiple of what is returned.
      image_shape: ``(*spatial, channels)``.

    Example:
      >>> default_size(32, (140, 192, 1)), default_size(8, (182, 218, 182, 1))
      (4, 1)
    """
    if jax.default_backend() == "cpu":
        most = max(1, _VOXELS_ON_CPU // math.prod(image_shape))
    else:
        most = max(1, batch_size // jax.local_device_count())
    return max(size for size in divisors(batch_size) if size <= most)


def divisors(number: int) -> list[int]:
    """What a number can be divided by, from 1 to itself.

    Example:
      >>> divisors(8)
      [1, 2, 4, 8]
    """
    return [each for each in range(1, number + 1) if number % each == 0]


def check_size(size: int, batch_size: int) -> None:
    """Check that a batch can be cut into parts of a size.

    Raises:
      ValueError: It cannot.
    """
    if size < 1 or batch_size % size:
        raise ValueError(
            f"microbatch is {size}, and a batch has {batch_size} images: expected one of "
            f"{', '.join(map(str, divisors(batch_size)))}."
        )


def most_devices(size: int, image_shape: Sequence[int]) -> int:
    """Devices that are worth taking for parts of a size: one, where each part keeps a CPU busy.

    Args:
      size: Images of a part.
      image_shape: ``(*spatial, channels)``.

    Example:
      >>> most_devices(4, (140, 192, 1)) == jax.local_device_count()
      True
    """
    is_large = size * math.prod(image_shape) > _VOXELS_FOR_ALL_CORES
    return 1 if is_large and jax.default_backend() == "cpu" else jax.local_device_count()


def devices_for(num_parts: int, *, most: int | None = None) -> jax.sharding.Mesh:
    """As many devices of this process as share the parts of a batch evenly.

    Args:
      num_parts: Parts of a batch.
      most: Devices to take at most; by default all.

    Example:
      >>> devices_for(1).size
      1
    """
    present = jax.local_devices()[:most]
    count = max(number for number in divisors(num_parts) if number <= len(present))
    return jax.sharding.Mesh(np.array(present[:count]), (_AXIS,))


def each(
    function: Callable[..., PyTree[Array]],
    shared: PyTree[Array],
    batch: Sequence[Array],
    *,
    size: int,
    devices: jax.sharding.Mesh,
    together: Callable[[Array], Array],
) -> PyTree[Array]:
    """What a function gives for each part of a batch, put together.

    Args:
      function: ``(shared, *part) -> results``.
      shared: What all parts need, such as weights.
      batch: Arrays ``(batch, ...)``; the first is of floats.
      size: Images of a part; the batch has a multiple of that on each device.
      devices: From `devices_for`.
      together: `joined` or `mean`.

    Returns:
      The same on every device.
    """
    # Jitted, since it is asked for its shapes and its results, each on every platform: traced once.
    function = jax.jit(_alone(jax.jit(function)))

    def on_a_device(shared: PyTree[Array], *batch: Array) -> PyTree[Array]:
        count = len(batch[0]) // size
        parts = [leaf.reshape(count, size, *leaf.shape[1:]) for leaf in batch]

        def part(number: Array | int) -> list[Array]:
            return [lax.dynamic_index_in_dim(leaf, number, keepdims=False) for leaf in parts]

        def add(number: Array, found: PyTree[Array]) -> PyTree[Array]:
            put = functools.partial(lax.dynamic_update_index_in_dim, index=number, axis=0)
            return jax.tree.map(put, found, function(shared, *part(number)))

        empty = jax.tree.map(
            lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype),
            jax.eval_shape(lambda: function(shared, *part(0))),
        )
        found = lax.fori_loop(0, count, add, empty)
        return jax.tree.map(together, found)

    mapped = jax.shard_map(
        on_a_device,
        mesh=devices,
        in_specs=(P(), *(P(_AXIS) for _ in batch)),
        out_specs=P(),
        check_vma=False,
    )
    return mapped(shared, *batch)


def _alone(function: Callable[..., PyTree[Array]]) -> Callable[..., PyTree[Array]]:
    """A function that is compiled by itself, whatever loop or single turn it is in.

    On a CPU what surrounds it would be fused with it and round it otherwise.
    """

    def alone(shared: PyTree[Array], *part: Array) -> PyTree[Array]:
        def on_cpu(shared: PyTree[Array], *part: Array) -> PyTree[Array]:
            return apart(lambda first, *rest: function(shared, first, *rest), *part)

        return lax.platform_dependent(shared, *part, cpu=on_cpu, default=function)

    return alone


def joined(own: Array) -> Array:
    """Results of all parts, ``(parts, ...)``.

    Args:
      own: Those of this device, ``(own parts, ...)``.
    """
    return lax.all_gather(own, _AXIS, tiled=True)


def mean(own: Array) -> Array:
    """The mean over all parts, added up in their order.

    Args:
      own: Results of this device, ``(own parts, ...)``.
    """
    flat = own.reshape(len(own), -1)
    # Each device adds up its share of the numbers: all of them from every part would be too many.
    share = -(-flat.shape[1] // lax.axis_size(_AXIS))
    flat = jnp.pad(flat, ((0, 0), (0, share * lax.axis_size(_AXIS) - flat.shape[1])))
    parts = lax.all_to_all(flat, _AXIS, split_axis=1, concat_axis=0, tiled=True)
    total = lax.all_gather(functools.reduce(jnp.add, list(parts)) / len(parts), _AXIS, tiled=True)
    return total[: math.prod(own.shape[1:])].reshape(own.shape[1:])


def copied(values: PyTree[Any], devices: jax.sharding.Mesh) -> PyTree[Array]:
    """Values on each of the devices, moved only where they are not there yet."""
    return jax.device_put(values, NamedSharding(devices, P()))


def dealt(batch: PyTree[Any], devices: jax.sharding.Mesh) -> PyTree[Array]:
    """The images of a batch, each on the device that its part falls to."""
    return jax.device_put(batch, NamedSharding(devices, P(_AXIS)))


def shapes(
    values: PyTree[Any], devices: jax.sharding.Mesh, *, dealt: bool = False
) -> PyTree[jax.ShapeDtypeStruct]:
    """The shapes of values that are copied to devices, or dealt out to them, to compile for."""
    sharding = NamedSharding(devices, P(_AXIS) if dealt else P())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), values
    )
