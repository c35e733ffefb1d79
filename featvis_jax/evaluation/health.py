"""What became of a unit: alive, dead, uniform or diverged."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

UNIFORM_SHARE = 0.02
"""An image counts as uniform below this standard deviation, as a share of the intensity range."""


def status(
    image: Float[np.ndarray, "*spatial channels"],
    *,
    objective_trace: Float[np.ndarray, " steps"],
    finite: bool,
    intensity_range: tuple[float, float],
    border: int = 0,
) -> str:
    """Name the state of a unit after its ascent.

    * ``diverged``: something in the ascent was no longer finite; the image is the last one before.
    * ``dead``: the objective was the same at every step; the unit does not react to its input.
    * ``uniform``: it reacts, but the image is nearly flat: away from its border the standard
      deviation is below 2 % of the intensity range. The unit asks for a grey level and no pattern.
    * ``alive``: anything else.

    Args:
      image: The final image.
      objective_trace: f before every step.
      finite: Whether the ascent stayed finite.
      intensity_range: Lowest and highest intensity that the image could take.
      border: Voxels at each side to leave out, where fewer windows of the network overlap; the
        layer's receptive field is a good choice. Ignored where nothing would be left.

    Example:
      >>> flat = np.full((8, 8, 1), 0.5)
      >>> rising = np.linspace(0.0, 1.0, 10)
      >>> status(flat, objective_trace=rising, finite=True, intensity_range=(0.0, 1.0))
      'uniform'
    """
    if not finite:
        return "diverged"
    if np.ptp(objective_trace) == 0:
        return "dead"
    if 2 * border < min(image.shape[:-1]):
        image = image[(slice(border, -border or None),) * (image.ndim - 1)]
    low, high = intensity_range
    return "uniform" if image.std() < UNIFORM_SHARE * (high - low) else "alive"
