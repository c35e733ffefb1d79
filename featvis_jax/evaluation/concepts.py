"""Does a picture show the shape that was planted? Matched filters against look-alikes.

The scores are computed from images alone and know nothing of how an image was made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import signal

from featvis_jax.data import lesions

Template = Callable[[Float[np.ndarray, "rank *window"], float], Float[np.ndarray, "*window"]]
"""``(offsets from the centre in voxels, size) -> mask``; all have the same area at one size."""

# Sizes at which a shape is searched for, as multiples of the nominal one.
_OCTAVES = (0.5, 1 / math.sqrt(2), 1.0, math.sqrt(2), 2.0)


class Match(NamedTuple):
    """How well an image matches each shape.

    Attributes:
      correlation: For every shape the largest absolute normalised cross-correlation over all
        positions and sizes, on [0, 1].
      size: The size at which that was, in voxels: the side of a square of the same area.
    """

    correlation: Mapping[str, float]
    size: Mapping[str, float]

    def margin(self, shape: str) -> float:
        """By how much a shape leads the best of the others; negative where it does not."""
        others = [value for name, value in self.correlation.items() if name != shape]
        return self.correlation[shape] - max(others)


def _origin(offsets: np.ndarray) -> np.ndarray:
    return np.zeros(offsets.shape[0])


def _disc(offsets: np.ndarray, size: float) -> np.ndarray:
    radius = size * _equal_area_radius(offsets.shape[0])
    return (np.sqrt((offsets**2).sum(axis=0)) < radius).astype(np.float64)


def _gaussian(offsets: np.ndarray, size: float) -> np.ndarray:
    diameter = 2 * size * _equal_area_radius(offsets.shape[0])
    return lesions.gaussian(offsets, _origin(offsets), diameter)


def _line(offsets: np.ndarray, size: float) -> np.ndarray:
    """A bar three times as long along one axis as it is wide."""
    rank = offsets.shape[0]
    width = size / 3 ** (1 / rank)
    halves = np.array([3 * width, *[width] * (rank - 1)]).reshape(-1, *[1] * rank) / 2
    return np.asarray((np.abs(offsets) < halves).all(axis=0), np.float64)


def _equal_area_radius(rank: int) -> float:
    """Radius of the disc or ball with the area of a square or cube of side 1."""
    return 1 / math.sqrt(math.pi) if rank == 2 else (3 / (4 * math.pi)) ** (1 / 3)


TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        "square": lambda offsets, size: lesions.square(offsets, _origin(offsets), size),
        "disc": _disc,
        "gaussian": _gaussian,
        "line": _line,
    }
)
"""The shapes that an image is compared with."""


def match_shapes(
    image: Float[np.ndarray, "*spatial channels"],
    *,
    size: float,
    templates: Mapping[str, Template] = TEMPLATES,
    multiples: Sequence[float] = _OCTAVES,
) -> Match:
    """Correlate an image with every shape at several sizes.

    Each template lies in the middle of a window twice its size, and the correlation is normalised
    by the image's own contrast in that window: a perfect copy scores 1 whatever its grey levels.

    Args:
      image: ``(*spatial, channels)``; channels are averaged.
      size: Nominal size in voxels.
      templates: The shapes.
      multiples: Sizes to search, as multiples of the nominal one.

    Returns:
      The best match of every shape.

    Example:
      >>> image = np.full((64, 64, 1), 0.5)
      >>> image[20:32, 30:42] = 0.8
      >>> found = match_shapes(image, size=12.0)
      >>> max(found.correlation, key=found.correlation.get), round(found.size["square"])
      ('square', 12)
    """
    plane = np.asarray(image, np.float64).mean(axis=-1)
    correlation = dict.fromkeys(templates, 0.0)
    sizes = dict.fromkeys(templates, math.nan)
    for multiple in multiples:
        side = 2 * max(round(size * multiple), 2)
        # Even and odd sizes need even and odd windows to be centred on the voxel grid.
        side += round(size * multiple) % 2
        if side > min(plane.shape):
            continue
        axis = np.arange(side) - (side - 1) / 2
        offsets = np.stack(np.meshgrid(*[axis] * plane.ndim, indexing="ij"))
        scale = _local_deviation(plane, side)
        for name, template in templates.items():
            mask = template(offsets, size * multiple)
            mask = mask - mask.mean()
            norm = np.linalg.norm(mask)
            if norm == 0:
                continue
            found = signal.fftconvolve(plane, np.flip(mask), mode="valid") / (norm * scale)
            best = float(np.abs(found).max())
            if best > correlation[name]:
                correlation[name], sizes[name] = best, size * multiple
    return Match(correlation, sizes)


def _local_deviation(plane: np.ndarray, side: int) -> np.ndarray:
    """Root of the sum of squared deviations from the mean, in every window of a side."""
    ones = np.ones((side,) * plane.ndim)
    total = signal.fftconvolve(plane, ones, mode="valid")
    squares = signal.fftconvolve(plane**2, ones, mode="valid")
    deviation = np.sqrt(np.maximum(squares - total**2 / ones.size, 0))
    # A window without contrast matches nothing; the floor is far above the transform's rounding.
    return np.maximum(deviation, 1e-3 * math.sqrt(ones.size))
