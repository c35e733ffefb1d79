"""Pooling and its derivatives, written for CPU.

* Of XLA's own, the maximum over windows is some ten times slower than memory, and its gradient
  fifty times; slices of the images that are compared, element by element, are not;
* what is pooled and what comes of it are kept apart from the loops around: XLA would compute a
  layer's activation once for every element of a window;
* windows that overlap are pooled along one axis after the other: 3 elements per axis and not 27;
* an axis of few channels is not: of two elements and 16 channels LLVM unrolls a loop whole and does
  not vectorize it;
* a window of many elements that meets no other is a reduction.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.ops import places, plain_pooling
from featvis_jax.nn.ops.fusion import apart
from featvis_jax.nn.ops.plain_pooling import (
    MOST_SLICES,
    from_windows,
    lowest,
    max_over,
    padded,
    strided,
)
from featvis_jax.nn.ops.windows import Windows

# Fewer channels than this, and the last two axes are pooled together.
_FEW_CHANNELS = 32
# Elements of a window along an axis beyond which they are reduced, if no two windows share any.
_MANY = 8


def max_pool(images: Array, *, windows: Windows) -> Array:
    """`featvis_jax.nn.ops.plain_pooling.max_pool`, of which no gradient is wanted."""
    return _reduced(images, windows, lowest(images), jnp.maximum, jnp.max)


def sum_pool(images: Array, *, windows: Windows) -> Array:
    """`featvis_jax.nn.ops.plain_pooling.sum_pool` on CPU."""
    return _reduced(images, windows, 0, jnp.add, jnp.sum)


def _reduced(
    images: Array, windows: Windows, outside: Any, combine: Any, reduce: Callable[..., Array]
) -> Array:
    def over(images: Array, axes: Sequence[int]) -> Array:
        if _is_reduction(windows, axes):
            return reduce(_in_tiles(images, windows, axes[0], outside), axis=axes[0] + 2)
        return functools.reduce(
            combine,
            [strided(images, windows, axes, o) for o in places.offsets(windows, axes)],
        )

    if not jnp.issubdtype(images.dtype, jnp.floating):
        return over(padded(images, windows, outside), range(len(windows.size)))
    images = _padded_apart(images, windows, outside)
    for axes in _stages(windows, _FEW_CHANNELS):
        images = apart(functools.partial(over, axes=axes), images)
    return images


def max_and_place(images: Array, *, windows: Windows) -> tuple[Array, Array]:
    """`featvis_jax.nn.ops.plain_pooling.max_and_place` on CPU."""
    best, place = _padded_apart(images, windows, lowest(images)), None
    for axes in _stages(windows, images.shape[-1]):
        over = _max_over_tiles if _is_reduction(windows, axes) else max_over
        over = functools.partial(over, windows=windows, axes=axes)
        if place is None:
            best, place = apart(lambda best, over=over: over(best, None), best)
        else:
            best, place = apart(over, best, place)
    assert place is not None
    return best, place


def _max_over_tiles(
    images: Array, place: Array | None, windows: Windows, axes: Sequence[int]
) -> tuple[Array, Array]:
    """`max_over` of many elements that no two windows share."""
    (axis,) = axes
    seen = _in_tiles(images, windows, axis, lowest(images))
    best = seen.max(axis=axis + 2)
    kind = places.kind(windows)
    number = lax.broadcasted_iota(kind, seen.shape, axis + 2)
    number = number * np.asarray(places.weights(windows)[axis], kind)
    if place is not None:
        number = number + _in_tiles(place, windows, axis, 0)
    is_best = (seen == jnp.expand_dims(best, axis + 2)) | (seen != seen)
    nowhere = np.asarray(np.iinfo(kind).max, kind)
    return best, jnp.where(is_best, number, nowhere).min(axis=axis + 2)


def pick(images: Array, place: Array, *, windows: Windows) -> Array:
    """`featvis_jax.nn.ops.plain_pooling.pick` on CPU."""
    if len(places.offsets(windows, range(len(windows.size)))) > MOST_SLICES:
        return plain_pooling.pick(images, place, windows=windows)

    def chosen(images: Array, place: Array) -> Array:
        axes, weights = range(len(windows.size)), places.weights(windows)
        found = jnp.zeros(place.shape, images.dtype)
        for offset in places.offsets(windows, range(len(windows.size))):
            here = sum(o * weight for o, weight in zip(offset, weights, strict=True))
            is_here = place == np.asarray(here, place.dtype)
            found = jnp.where(is_here, strided(images, windows, axes, offset), found)
        return found

    return apart(chosen, _padded_apart(images, windows, 0), place)


def route(out: Array, place: Array, *, windows: Windows, spatial: tuple[int, ...]) -> Array:
    """`featvis_jax.nn.ops.plain_pooling.route` on CPU."""
    return apart(
        functools.partial(plain_pooling.route, windows=windows, spatial=spatial), out, place
    )


def spread(out: Array, *, windows: Windows, spatial: tuple[int, ...]) -> Array:
    """`featvis_jax.nn.ops.plain_pooling.spread` on CPU."""

    def given(offsets: Sequence[Array], out: Array) -> Array:
        inside = [
            (offset >= 0) & (offset < extent) & (offset % dilation == 0)
            for offset, extent, dilation in zip(
                offsets, windows.extents, windows.dilations, strict=True
            )
        ]
        return jnp.where(functools.reduce(jnp.logical_and, inside), out, 0)

    for axes in reversed(_stages(windows, _FEW_CHANNELS)):
        of_these = _only(windows, axes)
        shape = tuple(
            size if axis in axes else n
            for axis, (size, n) in enumerate(zip(spatial, out.shape[1:-1], strict=True))
        )
        stage = functools.partial(from_windows, given, windows=of_these, spatial=shape)
        out = apart(stage, out)
    return out


def _stages(windows: Windows, channels: int) -> list[tuple[int, ...]]:
    """Which axes are pooled together, the last first."""
    axes = tuple(range(len(windows.size)))
    if not any(_overlap(windows, axis) for axis in axes):
        if len(places.offsets(windows, range(len(windows.size)))) <= MOST_SLICES:
            return [axes]
    elif channels < _FEW_CHANNELS and len(places.offsets(windows, axes[-2:])) <= MOST_SLICES:
        return [axes[-2:], *((axis,) for axis in reversed(axes[:-2]))]
    return [(axis,) for axis in reversed(axes)]


def _overlap(windows: Windows, axis: int) -> bool:
    return windows.strides[axis] < windows.extents[axis]


def _is_reduction(windows: Windows, axes: Sequence[int]) -> bool:
    if len(axes) > 1:
        return False
    (axis,) = axes
    many = windows.size[axis] > _MANY and windows.dilations[axis] == 1
    return many and not _overlap(windows, axis)


def _in_tiles(images: Array, windows: Windows, axis: int, outside: Any) -> Array:
    """Padded images with the elements of a window as an axis behind that of the windows."""
    stride, size = windows.strides[axis], windows.size[axis]
    count = (images.shape[axis + 1] - size) // stride + 1
    pads = [(0, 0, 0)] * images.ndim
    pads[axis + 1] = (0, count * stride - images.shape[axis + 1], 0)
    images = lax.pad(images, np.asarray(outside, images.dtype), pads)
    shape = images.shape
    tiles = images.reshape(*shape[: axis + 1], count, stride, *shape[axis + 2 :])
    return lax.slice_in_dim(tiles, 0, size, axis=axis + 2)


def _only(windows: Windows, axes: Sequence[int]) -> Windows:
    """The same windows along these axes, single voxels along the others."""
    voxel = (1, 1, 1, (0, 0))
    of_axes = [
        each if axis in axes else voxel for axis, each in enumerate(zip(*windows, strict=True))
    ]
    return Windows(*zip(*of_axes, strict=True))


def _padded_apart(images: Array, windows: Windows, value: Any) -> Array:
    if not any(map(any, windows.pads)):
        return images
    return apart(lambda images: padded(images, windows, value), images)
