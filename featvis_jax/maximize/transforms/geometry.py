"""Transforms that turn, scale and mirror the image.

Each states the affine map it draws, so that `chain` composes neighbours and resamples once. Maps
act about the centre of the grid and in voxels, the same for slices and volumes; outside the image
there is a constant fill, 0 like the background of a skull-stripped brain.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from featvis_jax.maximize.transforms.base import AffineMap, DescribedTransform, Geometry
from featvis_jax.maximize.transforms.checks import (
    check_choice,
    check_integer,
    check_number,
    check_numbers,
    check_one_of,
)
from featvis_jax.maximize.transforms.interpolation import geometric
from featvis_jax.maximize.transforms.kernels import INTERPOLATIONS, Interpolation
from featvis_jax.maximize.transforms.rotations import draw_rotation, rotation_by
from featvis_jax.types import Image, Key, Scalar, Step

__all__ = ["flip", "rotate", "scale"]


def rotate(
    *,
    max_degrees: float | None = None,
    degrees: Sequence[float] | None = None,
    interpolation: Interpolation = "linear",
    fill: float = 0.0,
) -> DescribedTransform:
    r"""Rotate by a random angle about the centre of the grid.

    In 2-D the angle is uniform within :math:`\pm` `max_degrees`; positive angles turn the second
    axis towards the first, as `scipy.ndimage.rotate` does. In 3-D the axis is uniform on the
    sphere and the angle :math:`\theta` has a density proportional to :math:`1 - \cos\theta`
    up to `max_degrees`: the Haar measure restricted to rotations of at most that angle.

    Args:
      max_degrees: Largest angle, in [0, 180].
      degrees: Instead of it, angles of which one is drawn, each with equal chance; in 3-D about
        a uniform axis. Repeat an angle to make it likelier.
      interpolation: "nearest", "linear" or "cubic".
      fill: Intensity outside the image.

    Returns:
      A transform of 2-D and 3-D images.

    Raises:
      ValueError: Where an option is out of range, or not one of `max_degrees` and `degrees` is
        given; and for images that are neither 2-D nor 3-D.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> corner = jnp.zeros((3, 3, 1)).at[0, 0].set(1.0)
      >>> turned = rotate(degrees=[90])(jax.random.key(0), corner, 0)
      >>> jnp.argwhere(turned[..., 0] > 0.99).tolist()
      [[2, 0]]
    """
    check_one_of("rotate", max_degrees=max_degrees, degrees=degrees)
    check_choice("rotate", "interpolation", interpolation, INTERPOLATIONS)
    fill = check_number("rotate", "fill", fill)
    if degrees is None:
        max_degrees = check_number("rotate", "max_degrees", max_degrees, low=0, high=180)
        limit = math.radians(max_degrees)

        def draw_matrix(key: Key, rank: int) -> Float[Array, "rank rank"]:
            return draw_rotation(key, rank, limit)

    else:
        degrees = check_numbers("rotate", "degrees", degrees, low=-180, high=180)
        angles = np.deg2rad(degrees).astype(np.float32)

        def draw_matrix(key: Key, rank: int) -> Float[Array, "rank rank"]:
            angle_key, axis_key = jax.random.split(key)
            return rotation_by(jax.random.choice(angle_key, angles), axis_key, rank)

    def draw(key: Key, shape: tuple[int, ...]) -> AffineMap:
        return AffineMap(draw_matrix(key, len(shape)), jnp.zeros(len(shape)))

    options = {
        "max_degrees": max_degrees,
        "degrees": degrees,
        "interpolation": interpolation,
        "fill": fill,
    }
    return geometric("rotate", options, Geometry(draw, interpolation, fill, diagonal=False))


def scale(
    *,
    low: float | None = None,
    high: float | None = None,
    factors: Sequence[float] | None = None,
    interpolation: Interpolation = "linear",
    fill: float = 0.0,
) -> DescribedTransform:
    """Scale about the centre of the grid by one random factor for all axes.

    Args:
      low: Smallest factor, above 0; a factor above 1 enlarges.
      high: Largest factor, at least `low`; the factor is uniform between them.
      factors: Instead of both, factors of which one is drawn, each with equal chance.
      interpolation: "nearest", "linear" or "cubic".
      fill: Intensity outside the image.

    Returns:
      A transform of images of any rank.

    Raises:
      ValueError: Where an option is out of range, or neither `low` and `high` nor `factors` are
        given.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> halved = scale(factors=[0.5], interpolation="nearest")
      >>> halved(jax.random.key(0), jnp.ones((4, 4, 1)), 0).sum().item()
      4.0
    """
    check_one_of("scale", low=low, factors=factors)
    check_one_of("scale", high=high, factors=factors)
    check_choice("scale", "interpolation", interpolation, INTERPOLATIONS)
    fill = check_number("scale", "fill", fill)
    if factors is None:
        low = check_number("scale", "low", low, low=0, open_low=True)
        largest = high = check_number("scale", "high", high, low=low)

        def draw_factor(key: Key) -> Scalar:
            return jax.random.uniform(key, (), minval=low, maxval=high)

    else:
        factors = check_numbers("scale", "factors", factors, low=0, open_low=True)
        choices = np.array(factors, np.float32)
        largest = max(factors)

        def draw_factor(key: Key) -> Scalar:
            return jax.random.choice(key, choices)

    def draw(key: Key, shape: tuple[int, ...]) -> AffineMap:
        return AffineMap(jnp.eye(len(shape)) / draw_factor(key), jnp.zeros(len(shape)))

    options = {
        "low": low,
        "high": high,
        "factors": factors,
        "interpolation": interpolation,
        "fill": fill,
    }
    geometry = Geometry(draw, interpolation, fill, diagonal=True, stretch=largest)
    return geometric("scale", options, geometry)


def flip(*, axes: Sequence[int] = (0,), probability: float = 0.5) -> DescribedTransform:
    """Mirror the image along given axes, each with its own draw.

    Args:
      axes: Spatial axes that may be mirrored; axis 0 of an image in canonical orientation runs
        from left to right.
      probability: Chance of mirroring each of them, in [0, 1].

    Returns:
      A transform of images that have those axes.

    Raises:
      ValueError: Where an option is out of range; and for images without such an axis.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mirrored = flip(probability=1.0)(jax.random.key(0), jnp.arange(3.0).reshape(3, 1, 1), 0)
      >>> mirrored.ravel().tolist()
      [2.0, 1.0, 0.0]
    """
    probability = check_number("flip", "probability", probability, low=0, high=1)
    axes = tuple(check_integer("flip", "axes", axis, low=0) for axis in axes)

    def draw_flips(key: Key, rank: int) -> Bool[Array, " axes"]:
        if axes and max(axes) >= rank:
            raise ValueError(
                f"flip: axes={axes!r} of an image with {rank} spatial axes; expected axes in "
                f"[0, {rank - 1}]"
            )
        return jax.random.bernoulli(key, probability, (len(axes),))

    def draw(key: Key, shape: tuple[int, ...]) -> AffineMap:
        flips = draw_flips(key, len(shape))
        signs = jnp.ones(len(shape)).at[jnp.array(axes, int)].set(jnp.where(flips, -1.0, 1.0))
        return AffineMap(jnp.diag(signs), jnp.zeros(len(shape)))

    def apply(key: Key, image: Image, step: Step) -> Image:
        del step
        flips = draw_flips(key, image.ndim - 1)
        for flipped, axis in zip(flips, axes, strict=True):
            image = jnp.where(flipped, jnp.flip(image, axis), image)
        return image

    options = {"axes": axes, "probability": probability}
    return geometric("flip", options, Geometry(draw, None, None, diagonal=True), apply=apply)
