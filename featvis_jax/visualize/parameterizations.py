"""What is optimized: the parameters of an image, and how they become one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from featvis_jax.types import Image, Key

Parameters = PyTree[Array]


class Parameterization(NamedTuple):
    """A way to write an image down.

    Attributes:
      description: The call that makes it, for the record of a run.
      init: ``(key, image_shape) -> parameters``: random noise to start from.
      decode: ``parameters -> image``.
      constrain: ``parameters -> parameters``, after every update; keeps them in bounds.
      is_image: Whether the parameters are the image itself, so that a projection, which works on
        images, can be applied to them.
    """

    description: str
    init: Callable[[Key, tuple[int, ...]], Parameters]
    decode: Callable[[Parameters], Image]
    constrain: Callable[[Parameters], Parameters]
    is_image: bool


def pixels(
    *, intensity_range: tuple[float, float] = (0.0, 1.0), noise: float = 0.1
) -> Parameterization:
    """The image itself, clipped to a range after every step.

    The start is the middle of the range plus Gaussian noise. Without bounds the intensities run
    away, since a network has seen nothing outside of its training range.

    Args:
      intensity_range: Lowest and highest intensity.
      noise: Standard deviation of the start, as a share of the range, in [0, 1].

    Raises:
      ValueError: The range is empty or not finite, or the noise out of bounds.

    Example:
      >>> import jax
      >>> image = pixels().init(jax.random.key(0), (8, 8, 1))
      >>> image.shape, bool((image >= 0).all() & (image <= 1).all())
      ((8, 8, 1), True)
    """
    low, high = intensity_range
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"intensity_range is {intensity_range}; expected two finite numbers, low < high."
        )
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is {noise}; expected a share of the range in [0, 1].")

    def init(key: Key, image_shape: tuple[int, ...]) -> Image:
        start = (low + high) / 2 + noise * (high - low) * jax.random.normal(key, image_shape)
        return jnp.clip(start, low, high)

    return Parameterization(
        f"pixels(intensity_range={intensity_range}, noise={noise})",
        init,
        decode=lambda image: image,
        constrain=lambda image: jnp.clip(image, low, high),
        is_image=True,
    )
