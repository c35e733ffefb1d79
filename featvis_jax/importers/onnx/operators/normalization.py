"""Normalizations, in inference mode."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from featvis_jax.importers.onnx.operators.registry import (
    Layout,
    Node,
    Operator,
    per_channel,
    with_rank,
)


def _batch(
    node: Node, images: Array, scale: Array, bias: Array, mean: Array, variance: Array
) -> Array:
    if node.attributes.get("training_mode", 0):
        raise node.refuse("it is in training mode: export the network in evaluation mode.")
    slope = scale * lax.rsqrt(variance + node.attributes.get("epsilon", 1e-5))
    offset = bias - mean * slope
    return images * per_channel(slope, images) + per_channel(offset, images)


def _standardized(images: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = images - images.mean(axis=axes, keepdims=True)
    variance = jnp.square(centred).mean(axis=axes, keepdims=True)
    return centred * lax.rsqrt(variance + epsilon)


def _instance(node: Node, images: Array, scale: Array, bias: Array) -> Array:
    axes = tuple(range(1, images.ndim - 1))
    standard = _standardized(images, axes, node.attributes.get("epsilon", 1e-5))
    return standard * per_channel(scale, images) + per_channel(bias, images)


def _group(node: Node, images: Array, scale: Array, bias: Array) -> Array:
    groups = node.attributes["num_groups"]
    grouped = images.reshape(*images.shape[:-1], groups, -1)
    axes = (*range(1, images.ndim - 1), images.ndim)
    standard = _standardized(grouped, axes, node.attributes.get("epsilon", 1e-5))
    if node.opset < 21:  # One scale per group then.
        scale, bias = (jnp.repeat(x, images.shape[-1] // groups) for x in (scale, bias))
    standard = standard.reshape(images.shape)
    return standard * per_channel(scale, images) + per_channel(bias, images)


def _layer(node: Node, array: Array, scale: Array, bias: Array | None = None) -> Array:
    if any(node.outputs[1:]):
        raise node.refuse("mean and deviation, its further outputs, are not supported.")
    first = node.attributes.get("axis", -1) % array.ndim
    axes = tuple(range(first, array.ndim))
    standard = _standardized(array, axes, node.attributes.get("epsilon", 1e-5))
    standard = standard * with_rank(scale, array.ndim)
    return standard if bias is None else standard + with_rank(bias, array.ndim)


OPERATORS = {
    "BatchNormalization": Operator(_batch, Layout.CHANNELS_LAST),
    "GroupNormalization": Operator(_group, Layout.CHANNELS_LAST),
    "InstanceNormalization": Operator(_instance, Layout.CHANNELS_LAST),
    "LayerNormalization": Operator(_layer),
}
