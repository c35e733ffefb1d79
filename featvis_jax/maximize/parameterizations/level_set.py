"""Bodies of one grey level on an even background: where a smooth field is above zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from featvis_jax.maximize import splines
from featvis_jax.maximize.parameterizations.base import (
    FIXED_CONTRASTS,
    Parameterization,
    Shaped,
    bounds,
    check_noise,
)
from featvis_jax.maximize.penalties import mean_gradient
from featvis_jax.types import Image, Key, Scalar

# The field is kept within these bounds, and times the other number it is the logit of "body": from
# one bound to the other an image goes from 1/8000 to 7999/8000 of the contrast.
_BOUND, _SHARPNESS = 1.5, 6.0
# It starts with bodies on about a third of the image: a network whose ReLUs nothing passes has no
# gradient, and what it does not need goes later.
_START = -0.35
# What a volume costs in parts of a surface, as in `featvis_jax.maximize.penalties.clutter`.
_VOLUME = 0.2
_SIGNS = {"dark": -1.0, "bright": 1.0}


def level_set(
    *,
    spacing_mm: float | None = None,
    voxel_size_mm: float | Sequence[float] = 1.0,
    polarity: Literal["dark", "bright"] = "dark",
    level: float | None = None,
    contrast: float = 0.4,
    price: float = 16.0,
    intensity_range: tuple[float, float] = (0.0, 1.0),
    noise: float = 0.8,
) -> Parameterization:
    """Bodies of one grey level on an even background, of whatever shape.

        body  = logistic(6 field),   field = cubic B-splines, within +-1.5
        image = level -+ contrast * body
        cost  = price * (mean |grad body| + 0.2 mean body)

    What is made of voxels may be porous: a network that knows a cube by its faces is driven by
    faces, wherever they are, and by those of holes, too. Here there are bodies, where a smooth
    field is above zero, and no texture: nothing is finer than the control points, and no body is
    darker than another. What such a picture can show is a shape, and nothing else. Where the field
    ends near zero a body is half there, and grey.

    It wants a drive, or an end (`featvis_jax.maximize.objectives.up_to`): once the unit responds as
    it should, the price removes the bodies that are not needed for it. On the way to an end the
    price is deferred: in full from the start, it would hold many where the unit cannot yet respond.

    Args:
      spacing_mm: From one control point to the next; by default four voxels. What is smaller than
        two spacings is rounded.
      voxel_size_mm: Along each axis, or one number for all.
      polarity: Whether bodies are darker or brighter than their background.
      level: Of the background, from 0, the lower end of the range, to 1; by default 0.6 for dark
        bodies and 0.4 for bright ones.
      contrast: How far bodies are from their background, as a share of the range.
      price: Of bodies: of their surface and, so that none fills all of the image to have none, a
        little of their volume, both as shares of the image's voxels.
      intensity_range: Lowest and highest intensity.
      noise: Standard deviation of the field's coefficients at the start.

    Raises:
      ValueError: An option is out of bounds, or bodies would leave the range.

    References:
      Osher, Sethian, Fronts propagating with curvature-dependent speed, 1988.
      Chan, Vese, Active contours without edges, 2001.
      Bernard, Friboulet, Thevenaz, Unser, Variational B-spline level-set, 2009.

    Example:
      >>> import jax
      >>> bodies = level_set(voxel_size_mm=2.0, intensity_range=(0.0, 10.0))
      >>> image = bodies.decode(bodies.init(jax.random.key(0), (16, 20, 24, 1)))
      >>> image.shape, bool((image <= 6).all() and (image >= 2).all())
      ((16, 20, 24, 1), True)
    """
    # Many arguments: the options of one object, all of which have a default.
    low, high, *_ = bounds("level_set", "clip", intensity_range)
    ground, change = _levels(polarity, level, contrast)
    if not 0 <= price < math.inf:
        raise ValueError(f"level_set: price is {price}; expected a number from 0.")
    check_noise("level_set", noise)
    sizes, apart = _distances(voxel_size_mm, spacing_mm)

    def grid(image_shape: tuple[int, ...]) -> splines.ControlGrid:
        return splines.control_grid(image_shape[:-1], spacing_mm=apart, voxel_size_mm=sizes)

    def init(key: Key, image_shape: tuple[int, ...]) -> Shaped:
        shape = (image_shape[-1], *grid(image_shape).shape)
        return _within_bounds(Shaped(_START + noise * jax.random.normal(key, shape), image_shape))

    def body(parameters: Shaped) -> Image:
        points = grid(parameters.image_shape)
        field = [splines.evaluate(each, points) for each in parameters.values]
        return jax.nn.sigmoid(_SHARPNESS * jnp.stack(field, axis=-1))

    def decode(parameters: Shaped) -> Image:
        return low + (high - low) * (ground + change * body(parameters))

    def cost(parameters: Shaped) -> Scalar:
        drawn = body(parameters)
        return price * (mean_gradient(drawn) + _VOLUME * jnp.mean(drawn))

    return Parameterization(
        f"level_set(spacing_mm={apart:g}, voxel_size_mm={sizes}, polarity={polarity!r}, "
        f"level={ground:g}, contrast={contrast:g}, price={price:g}, "
        f"intensity_range={intensity_range}, noise={noise})",
        init,
        decode,
        constrain=_within_bounds,
        is_image=False,
        learning_rate=0.05,
        cost=cost,
        deferred=True,
    )


def _levels(polarity: str, level: float | None, contrast: float) -> tuple[float, float]:
    """The background's level, and how far bodies are from it."""
    if polarity not in _SIGNS:
        raise ValueError(f"level_set: polarity is {polarity!r}; expected 'dark' or 'bright'.")
    ground = FIXED_CONTRASTS[polarity].level if level is None else level
    bodies = ground + _SIGNS[polarity] * contrast
    if not (0 <= ground <= 1 and contrast > 0 and 0 <= bodies <= 1):
        raise ValueError(
            f"level_set: the background has level {ground:g} and the contrast is {contrast:g}, so "
            f"that bodies have level {bodies:g}; expected shares of the range, both levels in "
            "[0, 1]."
        )
    return ground, bodies - ground


def _distances(
    voxel_size_mm: float | Sequence[float], spacing_mm: float | None
) -> tuple[float | tuple[float, ...], float]:
    """Sizes of voxels, and from one control point to the next."""
    sizes = voxel_size_mm if isinstance(voxel_size_mm, (int, float)) else tuple(voxel_size_mm)
    largest = max(sizes) if isinstance(sizes, tuple) else sizes
    apart = 4 * largest if spacing_mm is None else spacing_mm
    try:  # Refused here, before an image is known.
        splines.control_grid((1,), spacing_mm=apart, voxel_size_mm=largest)
    except ValueError as error:
        raise ValueError(f"level_set: {error}") from error
    return sizes, apart


def _within_bounds(parameters: Shaped) -> Shaped:
    return Shaped(jnp.clip(parameters.values, -_BOUND, _BOUND), parameters.image_shape)
