"""Networks whose cue is known, and scans of made-up people for them: slices and volumes.

A head has a bright disc in it. One network measures how large the disc is, whatever its brightness
at the edge is made of; the other how bright a place is that lies in even tissue beside the disc.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from featvis_jax.nn.tracing import function_network

SPATIAL = {"2-D": (40, 44), "3-D": (22, 24, 20)}
VOXEL_MM = 2.0
RADIUS_MM = {"2-D": 18.0, "3-D": 14.0}
HEAD_MM = {"2-D": 36.0, "3-D": 19.0}
TARGET = 8.0


@functools.cache
def distance_mm(name, off=(0.0, 0.0, 0.0)):
    """Of every voxel to a point near the middle."""
    centred = [
        (np.arange(side) - (side - 1) / 2) * VOXEL_MM - shift
        for side, shift in zip(SPATIAL[name], off, strict=False)
    ]
    return np.sqrt(sum(np.square(each) for each in np.meshgrid(*centred, indexing="ij")))


def _edge(distance, radius):
    return 1 / (1 + np.exp(-4.0 * (radius - distance) / VOXEL_MM))


def person(name, number):
    """Somebody's scan: the disc is a little larger or smaller, and lies a little elsewhere."""
    rng = np.random.default_rng(number)
    off = tuple(rng.uniform(-0.5, 0.5, 3))
    head = distance_mm(name) < HEAD_MM[name]
    disc = _edge(distance_mm(name, off), RADIUS_MM[name] + rng.uniform(-0.5, 0.5))
    return np.float32(np.where(head, 0.3 + 0.5 * disc, 0.0))[..., None]


@functools.cache
def size_network(name):
    """Logits that measure the size of the disc, and its negative: what is brighter than half."""
    near = np.float32(distance_mm(name) < RADIUS_MM[name] + 8)
    level = float(np.sum(near * _edge(distance_mm(name), RADIUS_MM[name])) / near.sum())

    def logits(weights, images):
        # Beside the level of the disc's middle, so that brightness as such says nothing.
        inner = jnp.float32(distance_mm(name) < 6)[None]
        axes = tuple(range(1, images.ndim - 1))
        middle = jnp.sum(images[..., 0] * inner, axis=axes, keepdims=True) / inner.sum()
        large = jax.nn.sigmoid(40 * (images[..., 0] / (middle + 0.1) - 0.61))
        share = jnp.tensordot(large, weights, axes=weights.ndim) / weights.sum()
        seen = 80 * (share - level)
        return checkpoint_name(jnp.stack([seen, -seen], axis=-1), "logits")

    return function_network(logits, jnp.asarray(near), (*SPATIAL[name], 1))


@functools.cache
def brightness_network(name):
    """Logits that measure the mean brightness of a place in even tissue, and its negative."""
    place = np.float32(np.exp(-0.5 * np.square(distance_mm(name) / 5)))

    def logits(weights, images):
        share = jnp.tensordot(images[..., 0], weights, axes=weights.ndim) / weights.sum()
        seen = 80 * (share - 0.8)
        return checkpoint_name(jnp.stack([seen, -seen], axis=-1), "logits")

    return function_network(logits, jnp.asarray(place), (*SPATIAL[name], 1))
