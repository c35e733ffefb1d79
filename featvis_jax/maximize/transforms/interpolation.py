"""Resampling an image through an affine map, in two and three dimensions.

Voxel i of an axis of n voxels lies at coordinate i; the centre of the axis at ``(n - 1) / 2``.
Outside its grid an image goes on with a constant fill, as in SciPy's mode "grid-constant".

Maps with a diagonal linear part are applied one axis at a time, as products with small banded
matrices, which are fast on every device and so are their gradients; all others by a gather.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from featvis_jax.maximize.transforms.base import AffineMap, DescribedTransform, Geometry
from featvis_jax.maximize.transforms.gathering import gather_affine
from featvis_jax.maximize.transforms.kernels import taps
from featvis_jax.types import Image, Key, Step

__all__ = ["axis_weights", "geometric", "resample", "resample_axes"]


def geometric(
    name: str,
    options: dict[str, Any],
    geometry: Geometry,
    *,
    apply: Callable[[Key, Image, Step], Image] | None = None,
) -> DescribedTransform:
    """Make a transform of what draws its affine map.

    Args:
      name: Name of the factory.
      options: The factory's options; those that are None were not given.
      geometry: How the map is drawn and the image resampled.
      apply: A faster way to the same image, where there is one.

    Returns:
      The transform.
    """

    def apply_map(key: Key, image: Image, step: Step) -> Image:
        del step
        return resample(image, geometry.draw(key, image.shape[:-1]), geometry)

    given = tuple((option, value) for option, value in options.items() if value is not None)
    return DescribedTransform(name, given, apply or apply_map, geometry=geometry)


def resample(image: Image, affine: AffineMap, geometry: Geometry) -> Image:
    """Read an image through an affine map.

    Args:
      image: What to read from.
      affine: Where each voxel of the output is read.
      geometry: The interpolation, the fill and what is known about the map.

    Returns:
      An image of the same shape and dtype.
    """
    interpolation = geometry.interpolation or "nearest"
    fill = 0.0 if geometry.fill is None else geometry.fill
    # A kernel's weights sum to 1, so that an image less its fill is 0 outside.
    if not geometry.diagonal:
        gathered: Image = gather_affine(image - fill, affine, interpolation, geometry.stretch)
        return fill + gathered
    weights = []
    for axis, size in enumerate(image.shape[:-1]):
        centre = (size - 1) / 2
        voxels = jnp.arange(size, dtype=affine.matrix.dtype)
        coordinates = affine.matrix[axis, axis] * (voxels - centre)
        coordinates += affine.offset[axis] + centre
        weights.append(axis_weights(coordinates, size, interpolation=interpolation))
    return fill + resample_axes(image - fill, weights)


def axis_weights(
    coordinates: Float[Array, " outputs"],
    size: int,
    *,
    interpolation: str,
    limits: tuple[Int[Array, ""], Int[Array, ""]] | None = None,
) -> Float[Array, "outputs inputs"]:
    """Weights with which the voxels of one axis make its values at given coordinates.

    Args:
      coordinates: Where to read, in voxels.
      size: Number of voxels along the axis.
      interpolation: "nearest", "linear" or "cubic".
      limits: First and last voxel that may be read; what a kernel asks for beyond them it gets
        from them. Without limits, it gets 0 beyond the axis.

    Returns:
      A matrix, one row for each coordinate.
    """
    first, weights = taps(coordinates, interpolation)
    matrix = jnp.zeros((coordinates.shape[0], size), coordinates.dtype)
    voxels = jnp.arange(size)[None]
    for tap, weight in enumerate(weights):
        index = first + tap
        if limits is not None:
            index = jnp.clip(index, limits[0], limits[1])
        matrix += jnp.where(index[:, None] == voxels, weight[:, None], 0)
    return matrix


def resample_axes(image: Image, weights: Sequence[Float[Array, "..."]]) -> Image:
    """Multiply each spatial axis of an image by a square matrix of weights."""
    for axis, matrix in enumerate(weights):
        # Full precision: an accelerator's default would round intensities to 8 to 10 bits.
        moved = jnp.tensordot(
            matrix.astype(image.dtype), image, axes=(1, axis), precision=lax.Precision.HIGHEST
        )
        image = jnp.moveaxis(moved, 0, axis)
    return image
