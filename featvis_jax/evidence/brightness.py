"""Does a unit ask for shape, or for brightness that a change of shape only brings along?

A deformation raises a unit that looks at the brightness of a place, too: it moves a bright edge in.
The map of what grew is then a detour. So the same scans are changed once in shape and once in
brightness, up to the same target, and what either takes is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

MOST_RATIO = 1.7
"""From here on a unit asks for brightness: the geometric mean of 1.10 and 2.6.

In trials with a membrane's energy, units whose cue was the size of a place had ratios of 0.48 to
1.10, and units whose cue was the brightness of a place 2.6 to 4.0, or no shape reached the target.
With total variation the first were 0.65 to 1.30, or no brightness reached it, and in most scans of
the second no shape did.
"""
REACHED = 0.95
"""Share of the target that counts as reached."""

BOTH, NO_SHAPE, NO_BRIGHTNESS, NEITHER, NOTHING = (
    "both reach it",
    "shape does not reach it",
    "brightness does not reach it",
    "neither reaches it",
    "the scan reaches it as it is",
)
OUTCOMES = (BOTH, NO_SHAPE, NO_BRIGHTNESS, NEITHER, NOTHING)


class Effort(NamedTuple):
    """What a change of one kind took, and whether it was enough.

    Attributes:
      size: Of the change, from 0; no unit (`shape_effort`, `brightness_effort`).
      reaches: Whether the unit's objective reached its target.
    """

    size: float
    reaches: bool


class Comparison(NamedTuple):
    """The two kinds of change of one scan.

    Attributes:
      ratio: Effort by shape over effort by brightness; infinite where no shape is enough, 0 where
        no brightness is, NaN where nothing can be said.
      outcome: One of `OUTCOMES`.
    """

    ratio: float
    outcome: str


def shape_effort(
    displacement: Float[np.ndarray, "*spatial components"],
    *,
    voxel_size_mm: float | Sequence[float],
) -> float:
    """Root of the mean of |grad u|^2, the membrane energy of a displacement.

    Slopes are those between neighbouring voxels. Of cubic splines that is the root of
    `featvis_jax.maximize.splines.membrane_energy` to one per cent where control points are four
    voxels apart, and 5 % less at the smallest spacing, two.

    Args:
      displacement: In mm, ``(*spatial, components)``, along the axes of the image or of the world:
        the map "displacement" of a deformation.
      voxel_size_mm: Along each axis of the image, or one number for all.

    Example:
      >>> ramp = np.linspace(0, 1.9, 20)[:, None, None] * np.ones((20, 5, 2))
      >>> round(shape_effort(ramp, voxel_size_mm=2.0), 4)  # Two components, each 0.05 per mm.
      0.0707
    """
    rank = displacement.ndim - 1
    sizes = np.broadcast_to(np.asarray(voxel_size_mm, np.float64), (rank,))
    total = 0.0
    for axis, size in enumerate(sizes):
        if displacement.shape[axis] > 1:
            slopes = np.diff(displacement, axis=axis).astype(np.float64) / size
            total += np.square(slopes).sum(axis=-1).mean()
    return math.sqrt(total)


def brightness_effort(log_brightness: Float[np.ndarray, "*spatial channels"]) -> float:
    """Root of the mean square of the logarithm of a brightness ratio, all channels together.

    Args:
      log_brightness: The map "logbright" of a deformation.

    Example:
      >>> round(brightness_effort(np.full((4, 5, 1), -0.25)), 4)
      0.25
    """
    return math.sqrt(np.square(log_brightness.astype(np.float64)).sum(axis=-1).mean())


def effort(
    maps: Mapping[str, Float[np.ndarray, "*spatial components"]],
    objective: float,
    *,
    target: float,
    voxel_size_mm: float | Sequence[float],
) -> Effort:
    """What a change of a scan took, and whether it was enough.

    Args:
      maps: Of the change of one kind: with "displacement" one of shape, with "logbright" one of
        brightness (`featvis_jax.maximize.layer.FinishedUnit.maps`, `UnitResult.maps`).
      objective: What the unit's objective was in the end.
      target: What it was to reach (`featvis_jax.maximize.objectives.up_to`).
      voxel_size_mm: Along each axis of the image, or one number for all.

    Raises:
      ValueError: The maps are of both kinds or of neither.

    Example:
      >>> effort({"logbright": np.full((4, 5, 1), 0.1)}, 7.7, target=8.0, voxel_size_mm=1.0)
      Effort(size=0.1, reaches=True)
    """
    if ("displacement" in maps) == ("logbright" in maps):
        raise ValueError(
            f"effort: the maps are {', '.join(sorted(maps)) or 'none'}; expected either a "
            "displacement or logbright: let one of the two change, not both."
        )
    if "displacement" in maps:
        size = shape_effort(maps["displacement"], voxel_size_mm=voxel_size_mm)
    else:
        size = brightness_effort(maps["logbright"])
    return Effort(round(size, 9), objective >= target - (1 - REACHED) * abs(target))


def compared(shape: Effort, brightness: Effort) -> Comparison:
    """Compare what shape takes with what brightness takes, for the same scan and target.

    Args:
      shape: Of the change of shape.
      brightness: Of the change of brightness.

    Example:
      >>> compared(Effort(0.12, True), Effort(0.04, True))
      Comparison(ratio=3.0, outcome='both reach it')
      >>> compared(Effort(0.12, False), Effort(0.04, True)).ratio
      inf
      >>> compared(Effort(0.12, False), Effort(0.04, False)).ratio
      nan
    """
    if not brightness.reaches:
        return Comparison(0.0, NO_BRIGHTNESS) if shape.reaches else Comparison(math.nan, NEITHER)
    if not shape.reaches:
        return Comparison(math.inf, NO_SHAPE)
    if not shape.size or not brightness.size:
        # Nothing had to be changed, and so nothing is known of what would have been.
        return Comparison(math.nan, NOTHING)
    return Comparison(round(shape.size / brightness.size, 9), BOTH)


def ratio_of_unit(comparisons: Sequence[Comparison]) -> float:
    """The median ratio of a unit's scans, without those of which nothing can be said.

    Args:
      comparisons: Of its scans.

    Returns:
      A number from 0 to infinity; NaN where nothing can be said of any.

    Example:
      >>> three = [Comparison(math.inf, NO_SHAPE), Comparison(3.0, BOTH), Comparison(0.0, BOTH)]
      >>> ratio_of_unit(three), asks_for_brightness(ratio_of_unit(three))
      (3.0, True)
    """
    known = sorted(each.ratio for each in comparisons if not math.isnan(each.ratio))
    if not known:
        return math.nan
    return (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2


def asks_for_brightness(ratio: float) -> bool:
    """Whether a unit asks for brightness rather than shape, by its ratio.

    Args:
      ratio: Of `ratio_of_unit`.
    """
    return ratio >= MOST_RATIO
