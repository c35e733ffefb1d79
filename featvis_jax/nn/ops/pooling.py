"""Pooling with any window, stride, dilation and padding, and its derivatives of any order.

The maximum of a window is one of its elements: what the images' tangents give it is *picked* at the
place of that element, and what a cotangent gives the images is *routed* there. Both are linear and
the transpose of each other. So are a sum over windows and its spread.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core
from jax.interpreters import ad
from jaxtyping import Array, Shaped

from featvis_jax.nn.ops import cpu_pooling, plain_pooling
from featvis_jax.nn.ops.primitives import batch_by_folding, define
from featvis_jax.nn.ops.windows import Windows

Batch = Shaped[Array, "batch *spatial channels"]
Pooled = Shaped[Array, "batch *out channels"]


def max_pool(images: Batch, *, windows: Windows) -> Pooled:
    """Take the maximum over windows, of which padding is never one.

    Where several elements of a window are equal, the first in row-major order gets the gradient,
    as `jax.lax`'s select-and-scatter has it. NaN is larger than anything.

    Args:
      images: ``(batch, *spatial, channels)``.
      windows: Where the windows lie.

    Returns:
      ``(batch, *out, channels)``; -inf, or an integer's lowest, where a window holds padding alone.

    Raises:
      ValueError: No window fits into the image.

    Example:
      >>> import jax.numpy as jnp
      >>> images = jnp.arange(16.0).reshape(1, 4, 4, 1)
      >>> windows = Windows((2, 2), strides=(2, 2), dilations=(1, 1), pads=((0, 0), (0, 0)))
      >>> max_pool(images, windows=windows)[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    return _pooled(_max, images, windows)


def sum_pool(images: Batch, *, windows: Windows) -> Pooled:
    """Add up windows; padding counts as zeros. Mean-pooling is this, divided.

    Args:
      images: ``(batch, *spatial, channels)``.
      windows: Where the windows lie.

    Returns:
      ``(batch, *out, channels)``.

    Raises:
      ValueError: No window fits into the image.

    Example:
      >>> import jax.numpy as jnp
      >>> windows = Windows((3,), strides=(1,), dilations=(1,), pads=((1, 1),))
      >>> sum_pool(jnp.ones((1, 4, 1)), windows=windows)[0, :, 0].tolist()
      [2.0, 3.0, 3.0, 2.0]
    """
    return _pooled(_sum, images, windows)


def _pooled(primitive: core.Primitive, images: Array, windows: Windows) -> Array:
    spatial = images.shape[1:-1]
    count = windows.counts(spatial)
    if min(count) < 1:
        raise ValueError(
            f"Pooling windows of {windows.extents} do not fit into images of shape {spatial}, "
            f"padded by {windows.pads}: use a larger input grid or a smaller window."
        )
    # XLA's windows know no negative padding.
    cut = [(0, 0, 0), *((min(low, 0), min(high, 0), 0) for low, high in windows.pads), (0, 0, 0)]
    images = lax.pad(images, np.zeros((), images.dtype), cut)
    pads = tuple((max(low, 0), max(high, 0)) for low, high in windows.pads)
    # Where there is one window alone along an axis, it needs no stride of less than its extent.
    strides = tuple(
        max(extent, stride) if n == 1 else stride
        for n, extent, stride in zip(count, windows.extents, windows.strides, strict=True)
    )
    windows = windows._replace(strides=strides, pads=pads)
    return primitive.bind(images, windows=windows, lanes=0)


_max = define("fast_max_pool", plain_pooling.max_pool, on_cpu=cpu_pooling.max_pool)
_max_and_place = define(
    "fast_max_pool_and_place",
    plain_pooling.max_and_place,
    on_cpu=cpu_pooling.max_and_place,
    multiple_results=True,
)
_pick = define("fast_max_pool_pick", plain_pooling.pick, on_cpu=cpu_pooling.pick)
_route = define("fast_max_pool_route", plain_pooling.route, on_cpu=cpu_pooling.route)
_sum = define("fast_sum_pool", plain_pooling.sum_pool, on_cpu=cpu_pooling.sum_pool)
_spread = define("fast_sum_pool_spread", plain_pooling.spread, on_cpu=cpu_pooling.spread)


def _spatial(images: Any, lanes: int) -> tuple[int, ...]:
    return tuple(images.aval.shape[lanes + 1 : -1])


def _max_tangent(primals: Any, tangents: Any, **parameters: Any) -> Any:
    if isinstance(tangents[0], ad.Zero):
        best = _max.bind(*primals, **parameters)
        return best, _no_tangent(best)
    best, place = _max_and_place.bind(*primals, **parameters)
    return best, _pick.bind(tangents[0], place, **parameters)


def _max_and_place_tangent(primals: Any, tangents: Any, **parameters: Any) -> Any:
    best, place = _max_and_place.bind(*primals, **parameters)
    if isinstance(tangents[0], ad.Zero):
        return (best, place), (_no_tangent(best), _no_tangent(place))
    tangent = _pick.bind(tangents[0], place, **parameters)
    return (best, place), (tangent, _no_tangent(place))


def _no_tangent(value: Any) -> ad.Zero:
    return ad.Zero(jax.typeof(value).to_tangent_aval())


def _linear_in_the_first(primitive: Any, transpose: Any) -> None:
    """Give a primitive of values and places its derivatives."""

    def tangent_rule(primals: Any, tangents: Any, **parameters: Any) -> Any:
        _, place = primals
        found = primitive.bind(*primals, **parameters)
        tangent, _ = tangents
        if isinstance(tangent, ad.Zero):
            return found, _no_tangent(found)
        return found, primitive.bind(tangent, place, **parameters)

    def transpose_rule(cotangent: Any, values: Any, place: Any, **parameters: Any) -> Any:
        if isinstance(cotangent, ad.Zero):
            return [ad.Zero(values.aval), None]
        return [transpose(cotangent, values, place, **parameters), None]

    ad.primitive_jvps[primitive] = tangent_rule
    ad.primitive_transposes[primitive] = transpose_rule


ad.primitive_jvps[_max] = _max_tangent
ad.primitive_jvps[_max_and_place] = _max_and_place_tangent
_linear_in_the_first(
    _pick,
    lambda out, images, place, *, lanes, **parameters: _route.bind(
        out, place, spatial=_spatial(images, lanes), lanes=lanes, **parameters
    ),
)
_linear_in_the_first(
    _route,
    lambda images, out, place, *, spatial, **parameters: _pick.bind(images, place, **parameters),
)
ad.deflinear2(
    _sum,
    lambda out, images, *, lanes, **parameters: [
        _spread.bind(out, spatial=_spatial(images, lanes), lanes=lanes, **parameters)
    ],
)
ad.deflinear2(
    _spread, lambda images, out, *, spatial, **parameters: [_sum.bind(images, **parameters)]
)
for _primitive in (_max, _max_and_place, _pick, _route, _sum, _spread):
    batch_by_folding(_primitive, foldable=all)
