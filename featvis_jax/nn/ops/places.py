"""The place of an element in its window, as one number, and where it then is in the image.

An element is so many voxels from the first of its window along each axis. A place has these
offsets for digits. Each digit has room for a stride more than there are offsets: what a block of
`strides` voxels has for offsets may lie partly outside the window, and must be no other's place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.ops.windows import Windows


def weights(windows: Windows) -> tuple[int, ...]:
    """By how much one voxel along each axis changes a place."""
    bases = _bases(windows)
    return tuple(math.prod(bases[axis + 1 :]) for axis in range(len(bases)))


def kind(windows: Windows) -> np.dtype:
    """The smallest unsigned integer that holds every place."""
    return np.min_scalar_type(math.prod(_bases(windows)) - 1)


def _bases(windows: Windows) -> list[int]:
    return [e + s - 1 for e, s in zip(windows.extents, windows.strides, strict=True)]


def offsets(windows: Windows, axes: Sequence[int]) -> list[tuple[int, ...]]:
    """How far each element of a window is from its first along some axes, in row-major order."""
    along = (range(0, windows.extents[a], windows.dilations[a]) for a in axes)
    return list(itertools.product(*along))


def sources(place: Array, windows: Windows, padded: tuple[int, ...]) -> Array:
    """The element that each place is, counted in row-major order in a padded image.

    Args:
      place: ``(batch, *out, channels)``.
      windows: Of the places.
      padded: The image's spatial shape, with its padding.
    """
    rest, source = place.astype(jnp.int32), jnp.zeros((), jnp.int32)
    for axis, (weight, stride) in enumerate(zip(weights(windows), windows.strides, strict=True)):
        start = lax.broadcasted_iota(jnp.int32, place.shape, axis + 1) * stride
        source = source * padded[axis] + start + rest // weight
        rest = rest % weight
    return source


class Blocks(NamedTuple):
    """What reaches the voxels of an image along one axis, seen in blocks of as many as a stride.

    Attributes:
      length: Blocks that cover the image.
      pads: Results, none of them real, to add before and after for every block to have its windows.
      starts: The result that reaches the first block, one entry for each window that reaches a
        block, counted with the results before.
      offsets: How far the first voxel of a block is from the first of that window.
    """

    length: int
    pads: tuple[int, int]
    starts: tuple[int, ...]
    offsets: tuple[int, ...]


def blocks(windows: Windows, axis: int, size: int) -> Blocks:
    """Of an image of this size along an axis."""
    stride, low = windows.strides[axis], windows.pads[axis][0]
    along = slice(axis, axis + 1)
    (results,) = Windows(
        windows.size[along], windows.strides[along], windows.dilations[along], windows.pads[along]
    ).counts((size,))
    count = -(-size // stride)
    inside = {t * windows.dilations[axis] for t in range(windows.size[axis])}
    # The window that starts at result `first` has the block's first voxel at `offset`.
    found = [
        (first, low - first * stride)
        for first in range((low - windows.extents[axis]) // stride, (low + stride) // stride + 1)
        if inside.intersection(range(low - first * stride, low - first * stride + stride))
    ]
    before = max(-min(first for first, _ in found), 0)
    after = max(max(first for first, _ in found) + count - results, 0)
    return Blocks(
        count,
        (before, after),
        tuple(first + before for first, _ in found),
        tuple(offset for _, offset in found),
    )
