"""An image written down as a sum of coarser and finer ones."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float64

from featvis_jax.maximize.parameterizations.base import (
    Intensity,
    Parameterization,
    bounds,
    check_noise,
    unchanged,
)
from featvis_jax.types import Image, Key


def laplacian(
    *,
    levels: int = 4,
    intensity: Intensity = "sigmoid",
    intensity_range: tuple[float, float] = (0.0, 1.0),
    noise: float = 0.05,
) -> Parameterization:
    """A pyramid: images at 1, 1/2, 1/4 ... of the size, enlarged linearly and summed.

        raw = c sum over n < levels of enlarged(z_n),   z_n of sides ceil(side / 2^n)

    One step moves all scales alike, so that coarse structure grows as fast as fine. With c the
    raw image has the standard deviation of z on average.

    Args:
      levels: Number of sizes, at least 1, where it is the pixels.
      intensity: How the range is kept (`featvis_jax.maximize.parameterizations`).
      intensity_range: Lowest and highest intensity.
      noise: Standard deviation of the start, as a share of the range, in [0, 1].

    Raises:
      ValueError: An option is out of bounds.

    References:
      Burt, Adelson, The Laplacian pyramid as a compact image code, 1983.
      Mordvintsev, Pezzotti, Schubert, Olah, Differentiable image parameterizations, Distill 2018.

    Example:
      >>> import jax
      >>> start = laplacian(levels=3)
      >>> [level.shape for level in start.init(jax.random.key(0), (12, 9, 1))]
      [(12, 9, 1), (6, 5, 1), (3, 3, 1)]
    """
    if levels < 1:
        raise ValueError(f"laplacian: levels is {levels}; expected at least 1.")
    into = bounds("laplacian", intensity, intensity_range)
    check_noise("laplacian", noise)

    def init(key: Key, image_shape: tuple[int, ...]) -> list[Array]:
        return [
            noise * jax.random.normal(jax.random.fold_in(key, n), (*shape, image_shape[-1]))
            for n, shape in enumerate(_shapes(image_shape[:-1], levels))
        ]

    def decode(pyramid: list[Array]) -> Image:
        spatial = pyramid[0].shape[:-1]
        raw = pyramid[0]
        for level in pyramid[1:]:
            raw = raw + _enlarged(level, spatial)
        return into.bring(_loudness(spatial, levels) * raw)

    def write(raw: Image) -> list[Array]:
        spatial = raw.shape[:-1]
        finest = raw / _loudness(spatial, levels)
        coarser = _shapes(spatial, levels)[1:]
        return [finest, *(jnp.zeros((*shape, raw.shape[-1])) for shape in coarser)]

    return Parameterization(
        f"laplacian(levels={levels}, {into.arguments}, noise={noise})",
        init,
        decode,
        constrain=unchanged,
        is_image=False,
        encode=into.encoder(write),
        learning_rate=0.01,
    )


def _shapes(spatial: tuple[int, ...], levels: int) -> list[tuple[int, ...]]:
    return [tuple(-(-side // 2**n) for side in spatial) for n in range(levels)]


def _enlarged(level: Array, spatial: tuple[int, ...]) -> Array:
    for axis, side in enumerate(spatial):
        matrix = jnp.asarray(_enlarging(level.shape[axis], side), jnp.float32)
        # Full precision: an accelerator's default would round intensities to 8 to 10 bits.
        enlarged = jnp.tensordot(matrix, level, axes=(1, axis), precision=lax.Precision.HIGHEST)
        level = jnp.moveaxis(enlarged, 0, axis)
    return level


def _enlarging(size: int, target: int) -> Float64[np.ndarray, "target size"]:
    """Weights of linear interpolation between grids whose outer voxel faces coincide."""
    places = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0)


def _loudness(spatial: tuple[int, ...], levels: int) -> float:
    """The c for which independent noise of one variance keeps it, averaged over the voxels."""
    variance = sum(
        math.prod(
            float(np.square(_enlarging(*sides)).sum(axis=1).mean())
            for sides in zip(shape, spatial, strict=True)
        )
        for shape in _shapes(spatial, levels)
    )
    return 1 / math.sqrt(variance)
