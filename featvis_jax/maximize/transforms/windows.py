"""What the filters share: an image seen through a moving window, and the median of a window."""

import itertools
from collections.abc import Iterator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from featvis_jax.types import Image

__all__ = ["Mask", "Padded", "box_median", "offsets", "pad_edges", "view"]

Padded = Float[Array, "*padded channels"]
"""An image with a margin on its spatial sides."""

Mask = Bool[Array, "*spatial channels"]
"""A statement about every voxel of an image."""


def pad_edges(image: Image, width: int) -> Padded:
    """Repeat the voxels of the edge outwards, `width` voxels on every spatial side."""
    return jnp.pad(image, [(width, width)] * (image.ndim - 1) + [(0, 0)], mode="edge")


def offsets(rank: int, half_width: int) -> Iterator[tuple[int, ...]]:
    """All voxels of a window about its centre, in C order."""
    return itertools.product(range(-half_width, half_width + 1), repeat=rank)


def view(padded: Array, shape: tuple[int, ...], start: tuple[int, ...]) -> Array:
    """The part of given spatial shape that starts at a given voxel."""
    return padded[tuple(slice(i, i + size) for i, size in zip(start, shape, strict=True))]


def box_median(padded: Padded, size: int) -> Image:
    """Median over every box of `size` voxels a side that fits into an image.

    The floats are read as integers of the same order, and the bits of the median are found from
    the first to the last: one is set where no more than half of the window lies below the number
    so far. That is exact, holds two images in memory for any size of window, and does the same
    work everywhere.

    Args:
      padded: An image with a margin.
      size: Side of the box in voxels, odd, so that there is a middle value.

    Returns:
      An image whose sides are ``size - 1`` shorter.
    """
    rank = padded.ndim - 1
    bits = 8 * padded.dtype.itemsize
    integer = jnp.dtype(f"int{bits}")
    lowest, highest = jnp.iinfo(integer).min, jnp.iinfo(integer).max
    shape = tuple(length - size + 1 for length in padded.shape[:-1])
    # Among negative floats, the larger bit pattern is the smaller number.
    ordered = lax.bitcast_convert_type(padded, integer)
    ordered = jnp.where(ordered < 0, ordered ^ highest, ordered)

    def set_bit(
        i: Int[Array, ""], median: Int[Array, "*spatial channels"]
    ) -> Int[Array, "*spatial channels"]:
        # The first bit is the sign: adding it to the lowest integer wraps around to 0.
        candidate = median + lax.shift_left(
            jnp.ones((), integer), jnp.asarray(bits - 1 - i, integer)
        )
        below = jnp.zeros_like(median)
        for start in itertools.product(range(size), repeat=rank):
            below += (view(ordered, shape, start) < candidate).astype(integer)
        return jnp.where(below <= size**rank // 2, candidate, median)

    start = jnp.full((*shape, padded.shape[-1]), lowest, integer)
    median = lax.fori_loop(0, bits, set_bit, start)
    median = jnp.where(median < 0, median ^ highest, median)
    return lax.bitcast_convert_type(median, padded.dtype)
