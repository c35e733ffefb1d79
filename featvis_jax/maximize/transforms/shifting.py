"""Transforms that shift the image by whole voxels, without any interpolation."""

from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from featvis_jax.maximize.transforms.base import AffineMap, DescribedTransform, Geometry
from featvis_jax.maximize.transforms.checks import (
    check_choice,
    check_integer,
    check_number,
    check_one_of,
)
from featvis_jax.maximize.transforms.interpolation import geometric
from featvis_jax.types import Image, Key, Step

__all__ = ["pad_and_crop", "roll", "translate"]


def translate(
    *,
    max_fraction: float | None = None,
    max_voxels: int | None = None,
    fill: float = 0.0,
) -> DescribedTransform:
    """Shift the image by a random whole number of voxels along each axis.

    Args:
      max_fraction: Largest shift as a fraction of each side, in [0, 1]. The shift is uniform up
        to it, then rounded.
      max_voxels: Instead of it, the largest shift in voxels; every whole number up to it, to
        either side, is equally likely.
      fill: Intensity outside the image.

    Returns:
      A transform of images of any rank. Alone it copies voxels and interpolates nothing.

    Raises:
      ValueError: Where an option is out of range, or not one of `max_fraction` and `max_voxels`
        is given.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> moved = translate(max_voxels=1)(jax.random.key(1), jnp.ones((3, 3, 1)), 0)
      >>> moved[..., 0].tolist()
      [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """
    check_one_of("translate", max_fraction=max_fraction, max_voxels=max_voxels)
    fill = check_number("translate", "fill", fill)
    if max_voxels is None:
        fraction = max_fraction = check_number(
            "translate", "max_fraction", max_fraction, low=0, high=1
        )

        def largest(side: int) -> int:
            return round(fraction * side)

        def draw_shift(key: Key, shape: tuple[int, ...]) -> Int[Array, " rank"]:
            sides = jnp.array(shape, jnp.float32)
            drawn = jax.random.uniform(key, (len(shape),), minval=-fraction, maxval=fraction)
            return jnp.round(drawn * sides).astype(jnp.int32)

    else:
        limit = max_voxels = check_integer("translate", "max_voxels", max_voxels, low=0)

        def largest(side: int) -> int:
            del side
            return limit

        def draw_shift(key: Key, shape: tuple[int, ...]) -> Int[Array, " rank"]:
            return jax.random.randint(key, (len(shape),), -limit, limit + 1)

    def draw(key: Key, shape: tuple[int, ...]) -> AffineMap:
        return AffineMap(jnp.eye(len(shape)), -draw_shift(key, shape).astype(jnp.float32))

    def apply(key: Key, image: Image, step: Step) -> Image:
        del step
        shift = draw_shift(key, image.shape[:-1])
        for axis, side in enumerate(image.shape[:-1]):
            image = _shift(
                image, axis, shift[axis], largest(side), mode="constant", constant_values=fill
            )
        return image

    options = {"max_fraction": max_fraction, "max_voxels": max_voxels, "fill": fill}
    geometry = Geometry(draw, None, fill, diagonal=True)
    return geometric("translate", options, geometry, apply=apply)


def roll(*, max_voxels: int) -> DescribedTransform:
    """Shift the image by a random whole number of voxels, what leaves entering opposite.

    Args:
      max_voxels: Largest shift along each axis; every whole number up to it, to either side, is
        equally likely.

    Returns:
      A transform of images whose sides are at least `max_voxels` long.

    Raises:
      ValueError: Where an option is out of range; and for images that are too small.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rolled = roll(max_voxels=2)(jax.random.key(0), jnp.arange(5.0).reshape(5, 1), 0)
      >>> sorted(rolled.ravel().tolist())
      [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    max_voxels = check_integer("roll", "max_voxels", max_voxels, low=0)

    def apply(key: Key, image: Image, step: Step) -> Image:
        del step
        rank = image.ndim - 1
        if min(image.shape[:-1]) < max_voxels:
            raise ValueError(
                f"roll: max_voxels={max_voxels} for an image of shape {image.shape}; expected at "
                f"most its shortest side, {min(image.shape[:-1])}"
            )
        shift = jax.random.randint(key, (rank,), -max_voxels, max_voxels + 1)
        for axis in range(rank):
            image = _shift(image, axis, shift[axis], max_voxels, mode="wrap")
        return image

    return DescribedTransform("roll", (("max_voxels", max_voxels),), apply)


def pad_and_crop(*, padding: int, mode: str = "constant", fill: float = 0.0) -> DescribedTransform:
    """Pad every side and cut an image of the old size out of the result at a random place.

    Args:
      padding: Voxels added on each side.
      mode: "constant", "edge", "reflect", "symmetric" or "wrap", as in `numpy.pad`.
      fill: Intensity of the padding in mode "constant".

    Returns:
      A transform of images of any rank.

    Raises:
      ValueError: Where an option is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> pad_and_crop(padding=2)(jax.random.key(0), jnp.ones((5, 5, 1)), 0).shape
      (5, 5, 1)
    """
    padding = check_integer("pad_and_crop", "padding", padding, low=0)
    modes = ("constant", "edge", "reflect", "symmetric", "wrap")
    check_choice("pad_and_crop", "mode", mode, modes)
    fill = check_number("pad_and_crop", "fill", fill)
    values = {"constant_values": fill} if mode == "constant" else {}

    def apply(key: Key, image: Image, step: Step) -> Image:
        del step
        widths = [(padding, padding)] * (image.ndim - 1) + [(0, 0)]
        padded = jnp.pad(image, widths, mode, **values)
        return jnp.asarray(dm_pix.random_crop(key, padded, image.shape))

    options = (("padding", padding), ("mode", mode), ("fill", fill))
    return DescribedTransform("pad_and_crop", options, apply)


def _shift(image: Image, axis: int, shift: Int[Array, ""], limit: int, **padding: Any) -> Image:
    """Move an image along one axis by at most `limit` voxels into padding of a given kind."""
    widths = [(0, 0)] * image.ndim
    widths[axis] = (limit, limit)
    padded = jnp.pad(image, widths, **padding)
    return lax.dynamic_slice_in_dim(padded, limit - shift, image.shape[axis], axis)
