"""Pooling over windows, and over all of space."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from featvis_jax.importers.onnx.operators.registry import Layout, Node, Operator
from featvis_jax.importers.onnx.operators.windows import Windows, windows


def _place(node: Node, images: Array) -> Windows:
    place = windows(node, images.shape[1:-1], tuple(node.attributes["kernel_shape"]))
    if node.attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        for n, size, stride, dilation in zip(
            images.shape[1:-1], place.size, place.strides, place.dilations, strict=True
        ):
            is_passed_over = (-(-n // stride) - 1) * stride + size < n
            if is_passed_over or (size > 1 and dilation > 1):
                raise node.refuse(
                    "auto_pad with dilations, or with strides larger than the window, is one thing "
                    "by ONNX's definition and another in ONNX Runtime: export it with pads."
                )
    return place


def _max_pool(node: Node, images: Array) -> Array:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise node.refuse("the places of the maxima, its second output, are not supported.")
    place = _place(node, images)
    return lax.reduce_window(
        images,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, *place.size, 1),
        window_strides=(1, *place.strides, 1),
        padding=((0, 0), *place.all_pads, (0, 0)),
        window_dilation=(1, *place.dilations, 1),
    )


def _average_pool(node: Node, images: Array) -> Array:
    place = _place(node, images)
    total = lax.reduce_window(
        images,
        0.0,
        lax.add,
        window_dimensions=(1, *place.size, 1),
        window_strides=(1, *place.strides, 1),
        padding=((0, 0), *place.all_pads, (0, 0)),
        window_dilation=(1, *place.dilations, 1),
    )
    with_padding = bool(node.attributes.get("count_include_pad", 0))
    return total / _counts(place, images.shape[1:-1], with_padding=with_padding)


def _counts(place: Windows, spatial: tuple[int, ...], *, with_padding: bool) -> Array:
    """How many elements each window averages; what rounding up adds never counts."""
    of_axes = []
    for i, n in enumerate(spatial):
        (low, high), more = place.pads[i], place.overhang[i]
        counted = np.full(low + n + high + more, 1.0 if with_padding else 0.0)
        counted[low : low + n] = 1.0
        counted[low + n + high :] = 0.0
        taps = np.arange(place.size[i]) * place.dilations[i]
        starts = np.arange(0, len(counted) - taps[-1], place.strides[i])
        of_axes.append(counted[starts[:, None] + taps].sum(axis=1))
    counts = functools.reduce(np.multiply.outer, of_axes)
    return jnp.asarray(counts[None, ..., None], jnp.float32)


def _global_average_pool(node: Node, images: Array) -> Array:
    return images.mean(axis=range(1, images.ndim - 1), keepdims=True)


def _global_max_pool(node: Node, images: Array) -> Array:
    return images.max(axis=range(1, images.ndim - 1), keepdims=True)


OPERATORS = {
    "AveragePool": Operator(_average_pool, Layout.CHANNELS_LAST),
    "GlobalAveragePool": Operator(_global_average_pool, Layout.CHANNELS_LAST),
    "GlobalMaxPool": Operator(_global_max_pool, Layout.CHANNELS_LAST),
    "MaxPool": Operator(_max_pool, Layout.CHANNELS_LAST),
}
