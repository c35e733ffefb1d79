"""What a parameterization is, and the range that it keeps an image in.

A raw image is what the parameters stand for before the range is seen to: 0 in the middle of the
range, in shares of its width. One argument, `intensity`, says for every parameterization how it
becomes intensities:

* ``"clip"``: cut off at both ends. What lies beyond has no gradient until its neighbours bring it
  back.
* ``"sigmoid"``: a logistic function with the same slope in the middle. Never quite black or white.
* ``"affine"``: stretched, so that the darkest voxel is at the lower end and the brightest at the
  upper. Contrast costs nothing, and nothing is cut off.
* a `FixedContrast`: an even background and a fixed amount of contrast on it, for which everything
  in the image competes.

Each channel of an image is brought into the range by itself, as if it were alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from featvis_jax.maximize.optimizers import ADAM, Optimizer
from featvis_jax.types import Image, Key, Scalar

Parameters = PyTree[Array]
INTENSITIES = ("clip", "sigmoid", "affine")


class FixedContrast(NamedTuple):
    """An even background from which elements stand out, all of them together by a fixed contrast.

        figure = max(raw, 0), or -max(-raw, 0) for "dark", or raw for "both"
        image  = level + contrast * figure / root mean square of figure, cut off at the range

    in each channel.

    An element is paid for with contrast taken from the others: what helps the unit least fades, and
    those that stay stand apart. A penalty on contrast does the same at a price that has to be found
    for every network anew, since it weighs against the objective; a budget does not. With elements
    of one polarity, two that touch are one: what a unit wants has to have an outline of its own,
    where both polarities let it tile the image with its edges.

    Attributes:
      polarity: "dark", "bright" or "both".
      level: Of the background, from 0, the lower end of the range, to 1, the upper.
      contrast: Root mean square of the difference from the background, as a share of the range,
        before what is beyond the range is cut off. In (0, 1].

    Example:
      >>> bring = bounds("pixels", FixedContrast("dark", level=0.6, contrast=0.1), (0, 1)).bring
      >>> image = bring(jnp.array([[-2.0], [5.0], [0.0], [0.0]]))
      >>> [round(float(x), 2) for x in image.ravel()]
      [0.4, 0.6, 0.6, 0.6]
    """

    polarity: Literal["dark", "bright", "both"] = "dark"
    level: float = 0.6
    contrast: float = 0.12


Intensity = Literal["clip", "sigmoid", "affine"] | FixedContrast
FIXED_CONTRASTS = {
    "dark": FixedContrast("dark", level=0.6),
    "bright": FixedContrast("bright", level=0.4),
    "both": FixedContrast("both", level=0.5),
}
"""By the name of the polarity, on a background that leaves room for it."""

# A sigmoid reaches its ends nowhere: what starts there is started this share within them.
_MARGIN = 0.005


def unchanged(parameters: Parameters) -> Parameters:
    """For parameters without bounds of their own, and for images of which nothing is held."""
    return parameters


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
      learning_rate: Of its optimizer, for an ascent of some hundred steps.
      hold: ``image -> image`` with the channels that are held put in (`holding`). `decode` has done
        so; a gradient with respect to the image goes through it once more, and is zero there.
      cost: ``parameters -> scalar``, what they cost beside what the image does: it is subtracted
        from the objective, and of a recipe with a drive it is the drive's cost. ``None`` where all
        that counts is the image.
      deferred: Whether the cost of an ascent to an end (`up_to`) waits for the objective: it counts
        by the square of the share of the way there, from the first step's value, that is behind.
      maps: ``parameters -> {name: (*spatial, components)}``, what they stand for beside the image,
        on its grid: how far a scan was moved, for example.
      optimizer: What takes the steps where a recipe does not say.
      variants: How many variants of a unit it makes, each from a scan of its own; ``None`` for any
        number.
    """

    description: str
    init: Callable[[Key, tuple[int, ...]], Parameters]
    decode: Callable[[Parameters], Image]
    constrain: Callable[[Parameters], Parameters]
    is_image: bool
    encode: Callable[[Image], Parameters] | None = None
    learning_rate: float = 0.05
    hold: Callable[[Image], Image] = unchanged
    cost: Callable[[Parameters], Scalar] | None = None
    deferred: bool = False
    maps: Callable[[Parameters], dict[str, Float[Array, "*spatial _"]]] | None = None
    optimizer: Optimizer = ADAM
    variants: int | None = None


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
      undo: ``image -> raw image`` that comes out as it, as nearly as the range allows; ``None``
        with a `FixedContrast`, which no other image has.
      arguments: Of the description.
    """

    low: float
    high: float
    bring: Callable[[Image], Image]
    undo: Callable[[Image], Image] | None
    arguments: str

    def encoder(self, write: Callable[[Image], Parameters]) -> Callable[[Image], Parameters] | None:
        """What writes an image down, given what writes a raw one down; ``None`` without `undo`."""
        undo = self.undo
        return None if undo is None else lambda image: write(undo(image))


def bounds(
    factory: str, intensity: str | FixedContrast, intensity_range: tuple[float, float]
) -> Bounds:
    """Check a range and the way into it.

    Args:
      factory: Name of the parameterization, for errors.
      intensity: One of `INTENSITIES`, or a `FixedContrast`.
      intensity_range: Lowest and highest intensity, usually those of the training images.

    Raises:
      ValueError: The range is empty or not finite, there is no such way, or no such contrast.

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
    # Runs on disk record a fixed contrast by its first name; by another they could not go on.
    recorded = repr(intensity).replace(FixedContrast.__name__, "Ground")
    arguments = f"intensity={recorded}, intensity_range={intensity_range}"
    if isinstance(intensity, FixedContrast):
        return Bounds(low, high, _fixed(factory, intensity, low, high), None, arguments)
    if intensity not in INTENSITIES:
        raise ValueError(
            f"{factory}: intensity is {intensity!r}; expected one of {', '.join(INTENSITIES)}, or "
            "a FixedContrast."
        )
    width, middle = high - low, (low + high) / 2

    def bring(raw: Image) -> Image:
        if intensity == "clip":
            return jnp.clip(middle + width * raw, low, high)
        if intensity == "sigmoid":
            return low + width * jax.nn.sigmoid(4 * raw)
        # Read from their places: the derivative of a minimum looks for voxels that equal it, and
        # a compiler that rounds them otherwise the second time leaves it none, and 0 / 0.
        flat = raw.reshape(-1, raw.shape[-1])
        channel = jnp.arange(flat.shape[-1])
        darkest, brightest = flat[flat.argmin(0), channel], flat[flat.argmax(0), channel]
        share = (flat - darkest[None]) / jnp.maximum(brightest - darkest, 1e-6)[None]
        return low + width * share.reshape(raw.shape)

    def undo(image: Image) -> Image:
        share = (image - low) / width
        if intensity == "sigmoid":
            return jax.scipy.special.logit(jnp.clip(share, _MARGIN, 1 - _MARGIN)) / 4
        return share - 0.5

    return Bounds(low, high, bring, undo, arguments)


def _fixed(
    factory: str, intensity: FixedContrast, low: float, high: float
) -> Callable[[Image], Image]:
    """How raw images get a fixed contrast."""
    polarity, level, contrast = intensity
    figures: dict[str, Callable[[Image], Image]] = {
        "dark": lambda raw: -jax.nn.relu(-raw),
        "bright": jax.nn.relu,
        "both": lambda raw: raw,
    }
    if polarity not in figures:
        raise ValueError(
            f"{factory}: the polarity is {polarity!r}; expected one of {', '.join(figures)}."
        )
    if not 0 <= level <= 1 or not 0 < contrast <= 1:
        raise ValueError(
            f"{factory}: the background has level {level} and the contrast is {contrast}; expected "
            "shares of the range, the level in [0, 1] and the contrast in (0, 1]."
        )
    if (polarity, level) in (("dark", 0), ("bright", 1)):
        raise ValueError(
            f"{factory}: nothing in the range is {polarity}er than a background of level "
            f"{level:g}; expected a level that leaves room."
        )

    def bring(raw: Image) -> Image:
        figure = figures[polarity](raw)
        # The small number is for an image of nothing but background.
        spatial = tuple(range(raw.ndim - 1))
        loudness = jnp.sqrt(jnp.mean(jnp.square(figure), axis=spatial, keepdims=True) + 1e-12)
        return jnp.clip(low + (high - low) * (level + contrast * figure / loudness), low, high)

    return bring


def check_noise(factory: str, noise: float) -> None:
    """Refuse a start that is no share of the range.

    Raises:
      ValueError: The noise is out of [0, 1].
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"{factory}: noise is {noise}; expected a share of the range in [0, 1].")
