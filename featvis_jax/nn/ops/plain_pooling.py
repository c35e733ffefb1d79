"""Pooling and its derivatives as `jax.lax` has them: what accelerators run.

Of the maxima's places `jax.lax` knows nothing: its gradient looks for them once more, and a
derivative in forward mode packs each value and its tangent in one number, half of each. Here they
are found together with the maxima, by comparisons and selections in the loop that takes these.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.ops import places
from featvis_jax.nn.ops.windows import Windows, shifted

# Slices of images that one loop may read; beyond, a program is large and slow to compile.
MOST_SLICES = 64


def max_pool(images: Array, *, windows: Windows) -> Array:
    """`featvis_jax.nn.ops.pooling.max_pool` of windows without negative padding."""
    return _reduce_window(images, lowest(images), lax.max, windows)


def max_and_place(images: Array, *, windows: Windows) -> tuple[Array, Array]:
    """The maximum of every window and its place, as `places` numbers it."""
    best, place = padded(images, windows, lowest(images)), None
    if len(places.offsets(windows, range(len(windows.size)))) <= MOST_SLICES:
        return max_over(best, place, windows, range(len(windows.size)))
    for axis in reversed(range(len(windows.size))):
        best, place = max_over(best, place, windows, [axis])
    assert place is not None
    return best, place


def max_over(
    images: Array, place: Array | None, windows: Windows, axes: Sequence[int]
) -> tuple[Array, Array]:
    """Maxima and their places over some axes of padded images.

    Args:
      images: ``(batch, *padded, channels)``.
      place: What is known of each element's place, from the axes behind these.
      windows: Of all axes.
      axes: Those to take maxima over.
    """
    kind, weights = places.kind(windows), places.weights(windows)
    best = found = None
    for offset in places.offsets(windows, axes):
        candidate = strided(images, windows, axes, offset)
        number = jnp.asarray(sum(o * weights[a] for o, a in zip(offset, axes, strict=True)), kind)
        its_place = number if place is None else strided(place, windows, axes, offset) + number
        if best is None or found is None:
            best, found = candidate, jnp.broadcast_to(its_place, candidate.shape)
            continue
        wins = _wins(candidate, best)
        best, found = jnp.where(wins, candidate, best), jnp.where(wins, its_place, found)
    assert best is not None
    assert found is not None
    return best, found


def strided(images: Array, windows: Windows, axes: Sequence[int], offset: Sequence[int]) -> Array:
    """Of padded images, the element of every window that is so far from its first."""
    start, stop, strides = [0] * images.ndim, list(images.shape), [1] * images.ndim
    for axis, first in zip(axes, offset, strict=True):
        stride = windows.strides[axis]
        count = (images.shape[axis + 1] - windows.extents[axis]) // stride + 1
        start[axis + 1], strides[axis + 1] = first, stride
        stop[axis + 1] = first + (count - 1) * stride + 1
    return lax.slice(images, start, stop, strides)


def pick(images: Array, place: Array, *, windows: Windows) -> Array:
    """Of every window the element at its place; padding is zero."""
    images = padded(images, windows, 0)
    source = places.sources(place, windows, images.shape[1:-1])
    flat, wanted = (x.reshape(x.shape[0], -1, x.shape[-1]) for x in (images, source))
    return jnp.take_along_axis(flat, wanted, axis=1).reshape(place.shape)


def route(out: Array, place: Array, *, windows: Windows, spatial: tuple[int, ...]) -> Array:
    """The transpose of `pick`: every voxel is the sum of what the windows give that chose it."""
    weights = places.weights(windows)

    def given(offsets: Sequence[Array], out: Array, place: Array) -> Array:
        here = sum(offset * weight for offset, weight in zip(offsets, weights, strict=True))
        return jnp.where(place == here, out, 0)

    return from_windows(given, out, place.astype(jnp.int32), windows=windows, spatial=spatial)


def from_windows(
    given: Callable[..., Array], *operands: Array, windows: Windows, spatial: Sequence[int]
) -> Array:
    """What every voxel of an image gets from the windows that reach it, added up.

    Args:
      given: What one window gives: ``(offsets, *operands) -> Array``, of a voxel's offset from the
        first of the window along each axis, which may lie outside it, and the window's operands.
      *operands: ``(batch, *out, channels)``; zero where there is no window.
      windows: Where the windows lie.
      spatial: The image's spatial shape.
    """
    axes = [places.blocks(windows, axis, size) for axis, size in enumerate(spatial)]
    pads = [(0, 0, 0), *((*axis.pads, 0) for axis in axes), (0, 0, 0)]
    operands = tuple(lax.pad(each, np.zeros((), each.dtype), pads) for each in operands)
    rank, count = len(axes), [axis.length for axis in axes]
    batch, channels = operands[0].shape[0], operands[0].shape[-1]
    # The voxels of a block are an axis of their own, along which its windows are repeated.
    within = itertools.chain(*zip(count, windows.strides, strict=True))
    shape = (batch, *within, channels)
    dimensions = (0, *range(1, 2 * rank, 2), 2 * rank + 1)
    voxels = [lax.broadcasted_iota(jnp.int32, shape, 2 * axis + 2) for axis in range(rank)]
    total = None
    for window in itertools.product(*(zip(a.starts, a.offsets, strict=True) for a in axes)):
        offsets = [voxel + offset for voxel, (_, offset) in zip(voxels, window, strict=True)]
        seen = [
            lax.broadcast_in_dim(shifted(each, [s for s, _ in window], count), shape, dimensions)
            for each in operands
        ]
        part = given(offsets, *seen)
        total = part if total is None else total + part
    assert total is not None
    sizes = (c * s for c, s in zip(count, windows.strides, strict=True))
    return shifted(total.reshape(batch, *sizes, channels), (0,) * rank, spatial)


def sum_pool(images: Array, *, windows: Windows) -> Array:
    """`featvis_jax.nn.ops.pooling.sum_pool` of such windows."""
    return _reduce_window(images, np.zeros((), images.dtype)[()], lax.add, windows)


def spread(out: Array, *, windows: Windows, spatial: tuple[int, ...]) -> Array:
    """The transpose of `sum_pool`: every element is the sum of the windows that see it."""
    shape = jax.ShapeDtypeStruct((out.shape[0], *spatial, out.shape[-1]), out.dtype)
    (images,) = jax.linear_transpose(functools.partial(sum_pool, windows=windows), shape)(out)
    return images


def lowest(images: Array) -> Any:
    """What is no maximum of anything."""
    is_real = jnp.issubdtype(images.dtype, jnp.floating)
    return np.asarray(-np.inf if is_real else jnp.iinfo(images.dtype).min, images.dtype)[()]


def padded(images: Array, windows: Windows, value: Any) -> Array:
    """With `value` around it, or cut."""
    pads = [(0, 0, 0), *((*pair, 0) for pair in windows.pads), (0, 0, 0)]
    return lax.pad(images, np.asarray(value, images.dtype), pads)


def _wins(candidate: Array, best: Array) -> Array:
    # NaN wins, so that a diverged activation is not hidden by its neighbours.
    return (candidate > best) | (candidate != candidate)


def _reduce_window(images: Array, start: Any, reduce: Any, windows: Windows) -> Array:
    return lax.reduce_window(
        images,
        start,
        reduce,
        window_dimensions=(1, *windows.size, 1),
        window_strides=(1, *windows.strides, 1),
        padding=((0, 0), *windows.pads, (0, 0)),
        window_dilation=(1, *windows.dilations, 1),
    )
