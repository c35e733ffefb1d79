"""Convolutions as matrix products, a few planes at a time, for CPU.

What a window sees is folded into channels, and all of it meets the kernel in one product. A 3-D
convolution folds its leading axis alone, where minimal filtering pays along the other two. What
is unfolded fills the cache and no more, so that neither time nor memory goes into copies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.ops.cpu_minimal_filtering import LOSSES, Filtering, minimal_filtering
from featvis_jax.nn.ops.windows import Windows

# What a part of the images may take, unfolded: it stays in the cache.
_BYTES = 2**23
# A copied element takes as long as so many multiply-adds of a large product.
_COPY = 16
# The error that minimal filtering may make, relative to the largest value, and that of one product
# of a single term with four points along one axis, measured.
_ERROR, _ERROR_OF_FOUR = 7e-6, 1.8e-8


class Tile(NamedTuple):
    """How many neighbouring results along each of the last two axes minimal filtering takes.

    A window of several elements that has one result there is folded.
    """

    rows: int
    columns: int


def padded(images: Array, pads: Sequence[tuple[int, int]]) -> Array:
    """With zeros around it, or cut."""
    zero = jnp.zeros((), images.dtype)
    return lax.pad(images, zero, [(0, 0, 0), *((*pair, 0) for pair in pads), (0, 0, 0)])


def conv(images: Array, kernel: Array, windows: Windows) -> Array:
    """A convolution of at most three spatial axes, of any stride and dilation, without groups."""
    missing = 3 - len(windows.size)
    if missing:
        # Planes and lines are volumes one voxel high.
        ones = (1,) * missing
        images = images.reshape(images.shape[0], *ones, *images.shape[1:])
        kernel = kernel.reshape(*ones, *kernel.shape)
        windows = Windows(
            ones + windows.size, ones + windows.strides, ones + windows.dilations,
            ((0, 0),) * missing + windows.pads,
        )  # fmt: skip
    found = _conv_of_volumes(images, kernel, windows)
    return found.reshape(found.shape[0], *found.shape[1 + missing :])


def _conv_of_volumes(images: Array, kernel: Array, windows: Windows) -> Array:
    shape = windows.counts(images.shape[1:-1])
    tile = _best_tile(len(images), shape, kernel.shape, windows)
    filterings = tuple(
        minimal_filtering(m, r if m > 1 else 1) for m, r in zip(tile, windows.size[1:], strict=True)
    )
    filters = _filters(kernel, tile, filterings)
    # As much as the last tile sees.
    tiles = [-(-n // m) for n, m in zip(shape[1:], tile, strict=True)]
    ends = [
        (s * (t * m - 1) + extent) - (low + n)
        for t, m, s, extent, (low, _), n in zip(
            tiles, tile, windows.strides[1:], windows.extents[1:], windows.pads[1:],
            images.shape[2:-1], strict=True,
        )
    ]  # fmt: skip
    pads = [
        windows.pads[0],
        *((low, e) for (low, _), e in zip(windows.pads[1:], ends, strict=True)),
    ]
    images = padded(images, pads)

    def of_part(part: Array, planes: int) -> Array:
        return _product(part, filters, windows, tile, filterings, (planes, *tiles))[
            :, :, : shape[1], : shape[2]
        ]

    unfolded = math.prod(tiles) * math.prod(filters.shape[:2]) * images.dtype.itemsize
    return in_parts(
        of_part,
        images,
        planes=shape[0],
        bytes_per_plane=unfolded,
        stride=windows.strides[0],
        extent=windows.extents[0],
    )


def in_parts(
    compute: Callable[[Array, int], Array],
    images: Array,
    *,
    planes: int,
    bytes_per_plane: int,
    stride: int,
    extent: int,
) -> Array:
    """What is computed of a few images, or of a few planes of one, at a time.

    Args:
      compute: Of a part of `images`, and its number of steps along the leading spatial axis.
      images: ``(batch, *spatial, channels)``.
      planes: Steps along that axis in all.
      bytes_per_plane: What one of them takes, of one image.
      stride: What one sees begins so many planes behind what the one before it sees.
      extent: How many planes one sees.
    """
    batch = len(images)
    fitting = max(1, _BYTES // bytes_per_plane)
    # Parts alike, of as many planes as there is room for; the last begins early enough to be whole.
    parts = -(-planes // min(planes, fitting))
    size = -(-planes // parts)
    together = 1 if parts > 1 else _largest_divisor(batch, fitting // planes)
    if parts == 1 and together == batch:
        return compute(images, planes)
    seen_shape = (together, (size - 1) * stride + extent, *images.shape[2:])
    rest = (0,) * (images.ndim - 2)

    def add(found: Array, number: Array) -> tuple[Array, None]:
        image, part = number // parts * together, number % parts
        start = jnp.minimum(part * size, planes - size)
        seen = lax.dynamic_slice(images, (image, start * stride, *rest), seen_shape)
        return lax.dynamic_update_slice(found, compute(seen, size), (image, start, *rest)), None

    result = jax.eval_shape(lambda part: compute(part, size), jnp.zeros(seen_shape, images.dtype))
    empty = jnp.zeros((batch, planes, *result.shape[2:]), result.dtype)
    return lax.scan(add, empty, jnp.arange(batch // together * parts))[0]


# Pairs of channels below which minimal filtering saves less than its rounding is worth: that
# reaches voxels that no result sees.
_FEWEST_PAIRS = 512


def _largest_divisor(number: int, most: int) -> int:
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(1, most))


def _best_tile(batch: int, shape: Sequence[int], kernel: Sequence[int], windows: Windows) -> Tile:
    """The tile that takes least time, counted in multiply-adds."""
    (depth, *window), (inputs, outputs) = kernel[:-2], kernel[-2:]
    if inputs * outputs < _FEWEST_PAIRS:
        return Tile(1, 1)

    def cost(tile: Tile) -> float:
        tiles = (
            batch * shape[0] * math.prod(-(-n // m) for n, m in zip(shape[1:], tile, strict=True))
        )
        pairs = list(zip(tile, window, strict=True))
        points = math.prod(m + r - 1 if m > 1 else 1 for m, r in pairs)
        folded = depth * math.prod(r for m, r in pairs if m == 1) * inputs
        terms = tiles * folded * outputs * points
        if tile == (1, 1):
            return terms + tiles * folded * _COPY
        sums = tiles * points * (folded + 2 * inputs + 2 * outputs) * _COPY
        return terms + sums + points * folded * outputs * _COPY

    def loses_little(tile: Tile) -> bool:
        points = [m + r - 1 if m > 1 else 1 for m, r in zip(tile, window, strict=True)]
        if any(p not in LOSSES for p in points):
            return False
        loss = math.prod(LOSSES[p] for p in points)
        return loss * math.sqrt(math.prod(kernel[:-1])) * _ERROR_OF_FOUR < _ERROR

    choices = [
        [1, *(m for m in (2, 3, 4) if r > 1 and s == d == 1)]
        for r, s, d in zip(window, windows.strides[1:], windows.dilations[1:], strict=True)
    ]
    tiles = [Tile(*pair) for pair in itertools.product(*choices)]
    return min((t for t in tiles if t == (1, 1) or loses_little(t)), key=cost)


def _filters(kernel: Array, tile: Tile, filterings: Sequence[Filtering]) -> Array:
    """The kernel as the products take it: ``(points, folded, out_channels)``."""
    outputs = kernel.shape[-1]
    if tile == (1, 1):
        return kernel.reshape(1, -1, outputs)
    for axis, (m, filtering) in enumerate(zip(tile, filterings, strict=True), 1):
        if m > 1:
            matrix = jnp.asarray(filtering.filters, kernel.dtype)
            kernel = jnp.moveaxis(jnp.tensordot(matrix, kernel, (1, axis)), 0, axis)
    (rows, columns), (height, width) = tile, kernel.shape[1:3]
    points = (height if rows > 1 else 1) * (width if columns > 1 else 1)
    # Columns outermost, as `_product` has them; what is folded goes with the channels.
    if rows > 1 and columns > 1:
        kernel = kernel.transpose(2, 1, 0, 3, 4)
    elif rows > 1:
        kernel = kernel.transpose(1, 0, 2, 3, 4)
    else:
        kernel = kernel.transpose(2, 0, 1, 3, 4)
    return kernel.reshape(points, -1, outputs)


def _product(
    images: Array,
    filters: Array,
    windows: Windows,
    tile: Tile,
    filterings: Sequence[Filtering],
    counts: Sequence[int],
) -> Array:
    """A convolution of padded volumes.

    Args:
      images: As much as the windows see.
      filters: What `_filters` made of the kernel.
      windows: Of whose pads nothing is used.
      tile: Results that minimal filtering finds together.
      filterings: Its matrices.
      counts: Planes of results, and tiles along the other two axes.
    """
    batch, seen = len(images), images[None]
    size, strides, dilations = ([*x] for x in (windows.size, windows.strides, windows.dilations))
    for axis, (m, filtering) in enumerate(zip(tile, filterings, strict=True), 1):
        if m > 1:
            seen = _at_points(seen, filtering.images, axis + 2, m, counts[axis])
            size[axis] = 1
    folded = []
    for tap in itertools.product(*(range(n) for n in size)):
        start = [t * d for t, d in zip(tap, dilations, strict=True)]
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, counts, strides, strict=True)]
        index = (slice(a, b, s) for a, b, s in zip(start, stop, strides, strict=True))
        folded.append(seen[(slice(None), slice(None), *index)])
    # Channel after channel in memory, which XLA copies fast; it does not along the last axis.
    unfolded = jnp.stack(folded, axis=-2) if len(folded) > 1 else folded[0]
    unfolded = unfolded.reshape(len(filters), -1, filters.shape[1])
    if len(filters) == 1:
        return (unfolded[0] @ filters[0]).reshape(batch, *counts, -1)
    products = lax.dot_general(unfolded, filters, (((2,), (1,)), ((0,), (0,))))
    (rows, columns), outputs = tile, filters.shape[-1]
    back = jnp.asarray(np.kron(filterings[1].back, filterings[0].back), products.dtype)
    found = back @ products.reshape(len(filters), -1)
    found = found.reshape(columns, rows, batch, *counts, outputs).transpose(2, 3, 4, 1, 5, 0, 6)
    return found.reshape(batch, counts[0], counts[1] * rows, counts[2] * columns, outputs)


def _at_points(images: Array, matrix: np.ndarray, axis: int, step: int, count: int) -> Array:
    """Sums of neighbours along an axis, every `step` elements: ``(points * parts, ...)``."""
    parts = [
        lax.slice_in_dim(images, i, i + step * (count - 1) + 1, step, axis=axis)
        for i in range(matrix.shape[1])
    ]
    sums = [
        sum(part if c == 1 else part * float(c) for c, part in zip(row, parts, strict=True) if c)
        for row in matrix
    ]
    stacked = jnp.stack(sums)
    return stacked.reshape(-1, *images.shape[1:axis], count, *images.shape[axis + 1 :])
