"""What a parameterization is, and the range that it keeps an image in.

A raw image is what the parameters stand for before the range is seen to: 0 in the middle of the
range, in shares of its width. One argument, `intensity`, says for every parameterization how it
becomes intensities:

* ``"clip"``: cut off at both ends. What lies beyond has no gradient until its neighbours bring it
  back.
* ``"sigmoid"``: a logistic function with the same slope in the middle. Never quite black or white.
* ``"affine"``: stretched, so that the darkest voxel is at the lower end and the brightest at the
  upper. Contrast costs nothing, and nothing is cut off.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from featvis_jax.types import Image, Key

Parameters = PyTree[Array]
Intensity = Literal["clip", "sigmoid", "affine"]
INTENSITIES = ("clip", "sigmoid", "affine")

# A sigmoid reaches its ends nowhere: what starts there is started this share within them.
_MARGIN = 0.005


class Parameterization(NamedTuple):
    """A way to write an image down.

    Attributes:
      description: The call that makes it, for the record of a run.
      init: ``(key, image_shape) -> parameters``: random noise to start from.
      decode: ``parameters -> image``.
      constrain: ``parameters -> parameters``, after every update; keeps them in bounds.
      is_image: Whether the parameters are the image itself, so that a projection, which works on
        images, can be applied to them.
      encode: ``image -> parameters`` that stand for it, as nearly as the range allows; ``None``
        where there is no telling.
      learning_rate: Of Adam, for an ascent of some hundred steps.
    """

    description: str
    init: Callable[[Key, tuple[int, ...]], Parameters]
    decode: Callable[[Parameters], Image]
    constrain: Callable[[Parameters], Parameters]
    is_image: bool
    encode: Callable[[Image], Parameters] | None = None
    learning_rate: float = 0.05


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["image_shape"]
)
@dataclasses.dataclass
class Shaped:
    """Parameters whose own shapes do not tell the image's.

    Attributes:
      values: The parameters.
      image_shape: ``(*spatial, channels)`` of the image that they stand for.
    """

    values: Any  # Arrays, or whatever a tree map puts in their place.
    image_shape: tuple[int, ...]


class Bounds(NamedTuple):
    """A range of intensities, and how raw images come into it.

    Attributes:
      low: Lowest intensity.
      high: Highest intensity.
      bring: ``raw image -> image``.
      undo: ``image -> raw image`` that comes out as it, as nearly as the range allows.
      arguments: Of the description.
    """

    low: float
    high: float
    bring: Callable[[Image], Image]
    undo: Callable[[Image], Image]
    arguments: str


def bounds(factory: str, intensity: str, intensity_range: tuple[float, float]) -> Bounds:
    """Check a range and the way into it.

    Args:
      factory: Name of the parameterization, for errors.
      intensity: One of `INTENSITIES`.
      intensity_range: Lowest and highest intensity, usually those of the training images.

    Raises:
      ValueError: The range is empty or not finite, or there is no such way.

    Example:
      >>> image = bounds("pixels", "affine", (0.0, 1.0)).bring(jnp.array([[[-0.1], [0.0], [0.3]]]))
      >>> image.ravel().tolist()
      [0.0, 0.25, 1.0]
    """
    low, high = intensity_range
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"{factory}: intensity_range is {intensity_range}; expected two finite numbers, "
            "low < high."
        )
    if intensity not in INTENSITIES:
        raise ValueError(
            f"{factory}: intensity is {intensity!r}; expected one of {', '.join(INTENSITIES)}."
        )
    width, middle = high - low, (low + high) / 2

    def bring(raw: Image) -> Image:
        if intensity == "clip":
            return jnp.clip(middle + width * raw, low, high)
        if intensity == "sigmoid":
            return low + width * jax.nn.sigmoid(4 * raw)
        # Read from their places: the derivative of a minimum looks for voxels that equal it, and
        # a compiler that rounds them otherwise the second time leaves it none, and 0 / 0.
        flat = raw.ravel()
        darkest, brightest = flat[flat.argmin()], flat[flat.argmax()]
        return low + width * (raw - darkest) / jnp.maximum(brightest - darkest, 1e-6)

    def undo(image: Image) -> Image:
        share = (image - low) / width
        if intensity == "sigmoid":
            return jax.scipy.special.logit(jnp.clip(share, _MARGIN, 1 - _MARGIN)) / 4
        return share - 0.5

    arguments = f"intensity={intensity!r}, intensity_range={intensity_range}"
    return Bounds(low, high, bring, undo, arguments)


def check_noise(factory: str, noise: float) -> None:
    """Refuse a start that is no share of the range.

    Raises:
      ValueError: The noise is out of [0, 1].
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"{factory}: noise is {noise}; expected a share of the range in [0, 1].")


def unchanged(parameters: Parameters) -> Parameters:
    """For parameters without bounds of their own."""
    return parameters
