"""An image written down as a function of the place."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from featvis_jax.maximize.parameterizations.base import (
    Intensity,
    Parameterization,
    Shaped,
    bounds,
    check_noise,
    unchanged,
)
from featvis_jax.types import Image, Key


def cppn(
    *,
    width: int = 24,
    depth: int = 8,
    intensity: Intensity = "sigmoid",
    intensity_range: tuple[float, float] = (0.0, 1.0),
    noise: float = 0.2,
) -> Parameterization:
    """A small network from a voxel's coordinates to its intensity (CPPN).

        h_0 = coordinates, the longest side in +-sqrt(3);  h_l = [t / 0.67, t² / 0.6],
        t = arctan(W_l h_(l-1));  raw = W h_depth

    What it draws is smooth, made of large shapes, and has no pixels: `decode` on a larger grid is
    the same picture, sharper. The memory for a volume is ``2 * width * depth`` volumes.

    Args:
      width: Units per layer, at least 1; each gives two values to the next.
      depth: Number of layers, at least 1.
      intensity: How the range is kept (`featvis_jax.maximize.parameterizations`).
      intensity_range: Lowest and highest intensity.
      noise: About the standard deviation of the start, as a share of the range, in [0, 1].

    Raises:
      ValueError: An option is out of bounds.

    References:
      Stanley, Compositional pattern producing networks, 2007.
      Mordvintsev, Pezzotti, Schubert, Olah, Differentiable image parameterizations, Distill 2018.

    Example:
      >>> import jax
      >>> start = cppn(width=4, depth=2)
      >>> parameters = start.init(jax.random.key(0), (12, 9, 1))
      >>> [weights.shape for weights in parameters.values], start.decode(parameters).shape
      ([(2, 4), (8, 4), (8, 1)], (12, 9, 1))
    """
    if width < 1 or depth < 1:
        raise ValueError(f"cppn: width is {width} and depth {depth}; expected at least 1 of each.")
    into = bounds("cppn", intensity, intensity_range)
    check_noise("cppn", noise)

    def init(key: Key, image_shape: tuple[int, ...]) -> Shaped:
        sizes = [len(image_shape) - 1, *[2 * width] * depth]
        weights = [
            jax.random.normal(jax.random.fold_in(key, n), (inputs, width)) / math.sqrt(inputs)
            for n, inputs in enumerate(sizes[:-1])
        ]
        last = jax.random.normal(jax.random.fold_in(key, depth), (sizes[-1], image_shape[-1]))
        return Shaped([*weights, noise / math.sqrt(sizes[-1]) * last], image_shape)

    def decode(parameters: Shaped) -> Image:
        *hidden, last = parameters.values
        spatial = parameters.image_shape[:-1]
        values = _coordinates(spatial)
        for weights in hidden:
            turned = jnp.arctan(_product(values, weights))
            values = jnp.concatenate([turned / 0.67, jnp.square(turned) / 0.6], axis=-1)
        return into.bring(_product(values, last))

    return Parameterization(
        f"cppn(width={width}, depth={depth}, {into.arguments}, noise={noise})",
        init,
        decode,
        constrain=unchanged,
        is_image=False,
        learning_rate=0.001,
    )


def _coordinates(spatial: tuple[int, ...]) -> Float[Array, "*spatial rank"]:
    """Place of every voxel about the centre, in units in which the longest side is +-sqrt(3)."""
    longest = max(*spatial, 2) - 1
    axes = [
        jnp.asarray(math.sqrt(3) * (2 * np.arange(side) - (side - 1)) / longest, jnp.float32)
        for side in spatial
    ]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)


def _product(values: Array, weights: Array) -> Array:
    # Full precision: an accelerator's default would leave steps in what should be smooth.
    return jnp.matmul(values, weights, precision=lax.Precision.HIGHEST)
