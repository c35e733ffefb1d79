"""Intensities of channels that differ in range, as shares of it: from 0, its lower end, to 1.

A T1w scaled to 0..1 and a CT in Hounsfield units beside it have nothing in common but that each has
a range. What optimizes an image, and what draws it, treats all channels alike: both see shares.
Files, and numbers that people read, have the intensities themselves. Arrays are NumPy's or JAX's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Range = tuple[float, float]
"""Lowest and highest intensity."""

Ranges = tuple[Range, ...]
"""Those of every channel, in order."""


def to_shares(image: Any, ranges: Ranges | None) -> Any:
    """Intensities as shares of the range of their channel; beyond its ends below 0 and above 1.

    Args:
      image: ``(..., channels)``.
      ranges: Of the channels; with None they have one range, and the image is returned as it is.

    Example:
      >>> to_shares(np.array([[1.0, -2.0], [3.0, 4.0]]), ((0.0, 4.0), (-2.0, 4.0))).tolist()
      [[0.25, 0.0], [0.75, 1.0]]
    """
    if ranges is None:
        return image
    low, high = _ends(ranges, image.ndim)
    return (image - low) / (high - low)


def to_intensities(shares: Any, ranges: Ranges | None) -> Any:
    """What `to_shares` makes shares of; 0 and 1 are exactly the ends.

    Args:
      shares: ``(..., channels)``.
      ranges: Of the channels; with None they have one range, and what is given is returned.

    Example:
      >>> to_intensities(np.array([[0.25, 0.0], [0.75, 1.0]]), ((0.0, 4.0), (-2.0, 4.0))).tolist()
      [[1.0, -2.0], [3.0, 4.0]]
    """
    if ranges is None:
        return shares
    low, high = _ends(ranges, shares.ndim)
    return low * (1 - shares) + high * shares


def window_in(own: Range | None, window: Range) -> Range:
    """The intensities at both ends of a window.

    Args:
      own: Range of the channel that the window has shares of; None for a window of intensities.
      window: Lowest and highest.

    Example:
      >>> window_in((-1000.0, 3000.0), (0.0, 0.5)), window_in(None, (0.0, 0.5))
      ((-1000.0, 1000.0), (0.0, 0.5))
    """
    if own is None:
        return window
    low, high = (own[0] * (1 - share) + own[1] * share for share in window)
    return low, high


def _ends(ranges: Ranges, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each channel, with as many axes as an image."""
    low, high = np.array(ranges, np.float32).T.reshape(2, *(1,) * (rank - 1), len(ranges))
    return low, high
