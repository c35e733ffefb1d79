"""Shapes of lesions, in slices and volumes by one code, as masks on a grid in mm."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from scipy import special

Coordinates = Float[np.ndarray, "rank *spatial"]
Mask = Float[np.ndarray, "*spatial"]
Shape = Callable[[Coordinates, Float[np.ndarray, " rank"], float], Mask]
"""``(coordinates_mm, center_mm, size_mm) -> mask`` on [0, 1], 1 where the lesion is fully there.

A voxel's value depends on its own coordinates alone: masks are drawn on parts of an image, and on
lines through it.
"""


def square(coordinates: Coordinates, center: Float[np.ndarray, " rank"], size: float) -> Mask:
    """A square (2-D) or cube (3-D) with sharp edges along the axes.

    Args:
      coordinates: Position of every voxel in mm, ``(rank, *spatial)``.
      center: The lesion's centre in mm, ``(rank,)``.
      size: Its side in mm.

    Returns:
      1 inside and 0 outside, ``(*spatial,)``.

    Example:
      >>> grid = np.indices((5, 5), dtype=np.float64)
      >>> int(square(grid, np.array([2.0, 2.0]), 3.0).sum())
      9
    """
    offset = np.abs(coordinates - _column(center, coordinates))
    return (offset.max(axis=0) < size / 2).astype(np.float64)


def disc(coordinates: Coordinates, center: Float[np.ndarray, " rank"], size: float) -> Mask:
    """A disc (2-D) or ball (3-D) with a sharp edge and the area of a square or cube.

    Args:
      coordinates: Position of every voxel in mm, ``(rank, *spatial)``.
      center: The lesion's centre in mm, ``(rank,)``.
      size: Side in mm of the square (cube) whose area (volume) it has.

    Returns:
      1 inside and 0 outside, ``(*spatial,)``.

    Example:
      >>> grid = np.indices((81, 81), dtype=np.float64)
      >>> int(disc(grid, np.array([40.0, 40.0]), 60.0).sum())  # 60 * 60, but for the grid
      3593
    """
    radius = np.sqrt(((coordinates - _column(center, coordinates)) ** 2).sum(axis=0))
    return (radius < size * equal_area_radius(coordinates.shape[0])).astype(np.float64)


def equal_area_radius(rank: int) -> float:
    """Radius of the disc or ball with the area of a square or cube of side 1.

    Example:
      >>> round(equal_area_radius(2), 3), round(equal_area_radius(3), 3)
      (0.564, 0.62)
    """
    return 1 / math.sqrt(math.pi) if rank == 2 else (3 / (4 * math.pi)) ** (1 / 3)


def gaussian(coordinates: Coordinates, center: Float[np.ndarray, " rank"], size: float) -> Mask:
    """A disc (2-D) or ball (3-D) whose edge is softened by a Gaussian.

    The edge falls off as the Gaussian's integral, with a standard deviation of an eighth of the
    diameter: no border is sharp, and a plateau remains in the middle. What is left of it below 2 %
    is cut off, since a trace of grey on a black background would tell of a lesion from afar.

    Args:
      coordinates: Position of every voxel in mm, ``(rank, *spatial)``.
      center: The lesion's centre in mm, ``(rank,)``.
      size: Diameter in mm at which half of the contrast is left.

    Returns:
      Values on [0, 1], ``(*spatial,)``.

    Example:
      >>> grid = np.indices((21, 21), dtype=np.float64)
      >>> mask = gaussian(grid, np.array([10.0, 10.0]), 12.0)
      >>> [round(float(mask[10, i]), 2) for i in (10, 13, 16, 19)]
      [1.0, 0.98, 0.5, 0.02]
    """
    radius = np.sqrt(((coordinates - _column(center, coordinates)) ** 2).sum(axis=0))
    mask = 0.5 * special.erfc((radius - size / 2) / (math.sqrt(2) * size / 8))
    return np.where(mask < 0.02, 0.0, mask)


def bar(
    coordinates: Coordinates,
    center: Float[np.ndarray, " rank"],
    size: float,
    *,
    axis: int = 0,
    ratio: float = 3.0,
) -> Mask:
    """A bar, or a plate, with the area of a square or cube.

    Args:
      coordinates: Position of every voxel in mm, ``(rank, *spatial)``.
      center: The lesion's centre in mm, ``(rank,)``.
      size: Side in mm of the square (cube) whose area (volume) it has.
      axis: The one along which it is long, or thin.
      ratio: How many times as long as wide; below 1 it is a plate, as thick as that.

    Returns:
      1 inside and 0 outside, ``(*spatial,)``.

    Example:
      >>> grid = np.indices((81, 81), dtype=np.float64)
      >>> mask = bar(grid, np.array([40.25, 40.25]), 27 / math.sqrt(3), axis=1)
      >>> int(mask.any(axis=1).sum()), int(mask.any(axis=0).sum())
      (9, 27)
      >>> grid = np.indices((32, 32, 32), dtype=np.float64)
      >>> mask = bar(grid, np.full(3, 15.25), 7 * 9 ** (1 / 3), axis=1, ratio=1 / 3)
      >>> [int(mask.any(axis=others).sum()) for others in ((1, 2), (0, 2), (0, 1))]
      [21, 7, 21]
    """
    return stretched(coordinates, center, size, shape=square, axis=axis, ratio=ratio)


def stretched(
    coordinates: Coordinates,
    center: Float[np.ndarray, " rank"],
    size: float,
    *,
    shape: Shape,
    axis: int = 0,
    ratio: float = 2.0,
) -> Mask:
    """A shape that is longer, or shorter, along one axis than along the others.

    Args:
      coordinates: Position of every voxel in mm, ``(rank, *spatial)``.
      center: The lesion's centre in mm, ``(rank,)``.
      size: Of the shape whose area (volume) it has.
      shape: What is stretched, as long along every axis.
      axis: The one along which it is.
      ratio: How many times as long as wide; below 1 it is flat.

    Returns:
      The shape's values, ``(*spatial,)``.

    Example:
      >>> grid = np.indices((81, 81), dtype=np.float64)
      >>> mask = stretched(grid, np.array([40.0, 40.0]), 30.0, shape=disc, axis=1, ratio=4.0)
      >>> int(mask.any(axis=1).sum()), int(mask.any(axis=0).sum())
      (17, 67)
    """
    rank = len(coordinates)
    scale = np.full(rank, ratio ** (-1 / rank))
    scale[axis] *= ratio
    offset = (coordinates - _column(center, coordinates)) / _column(scale, coordinates)
    return shape(offset, np.zeros(rank), size)


def three_quarters(
    coordinates: Coordinates,
    center: Float[np.ndarray, " rank"],
    size: float,
    *,
    shape: Shape,
    axes: tuple[int, int] = (0, 1),
    sides: tuple[int, int] = (1, 1),
) -> Mask:
    """A square or disc (cube or ball) without a quarter, larger by as much as it lacks.

    Args:
      coordinates: Position of every voxel in mm, ``(rank, *spatial)``.
      center: The lesion's centre in mm, ``(rank,)``.
      size: Side in mm of the square (cube) whose area (volume) it has.
      shape: The whole, symmetric about its centre along every axis and of that area at that size.
      axes: Those along which the quarter is cut out; it reaches through the whole along others.
      sides: On which side of the centre it lies along either: 1 or -1.

    Returns:
      The shape's values, 0 in the quarter, ``(*spatial,)``.

    Example:
      >>> grid = np.indices((40, 40), dtype=np.float64)
      >>> mask = three_quarters(grid, np.array([19.5, 19.5]), 20.0, shape=square)
      >>> int(mask.sum()), int(mask[20:, 20:].sum())  # 20 * 20, but for the grid
      (432, 0)
    """
    whole = shape(coordinates, center, size * (4 / 3) ** (1 / len(coordinates)))
    offsets = [
        side * (coordinates[axis] - center[axis]) for axis, side in zip(axes, sides, strict=True)
    ]
    return np.where(np.minimum(*offsets) > 0, 0.0, whole)


def with_knob(
    coordinates: Coordinates,
    center: Float[np.ndarray, " rank"],
    size: float,
    *,
    shape: Shape,
    direction: tuple[int, ...],
    ratio: float = 0.75,
) -> Mask:
    """A shape with a disc (ball) on its border, and larger by it.

    Args:
      coordinates: Position of every voxel in mm, ``(rank, *spatial)``.
      center: The shape's centre in mm, ``(rank,)``.
      size: Of the shape.
      shape: The whole, which holds all straight lines from its centre.
      direction: From its centre to the knob's, which lies on the border.
      ratio: The knob's size in sizes of the shape.

    Returns:
      The larger of both masks, ``(*spatial,)``.

    Example:
      >>> grid = np.indices((48, 48), dtype=np.float64)
      >>> center = np.array([23.5, 23.5])
      >>> mask = with_knob(grid, center, 20.0, shape=square, direction=(1, 0))
      >>> np.argwhere(mask).min(axis=0).tolist(), np.argwhere(mask).max(axis=0).tolist()
      ([14, 14], [41, 33])
    """
    away = np.asarray(direction, np.float64)
    knob = center + size * _reach(shape, direction) * away
    return np.maximum(shape(coordinates, center, size), disc(coordinates, knob, ratio * size))


def lump(
    coordinates: Coordinates, center: Float[np.ndarray, " rank"], size: float, *, seed: int
) -> Mask:
    """A body as no rule made it: where four Gaussians at random places add up to enough.

    Args:
      coordinates: Position of every voxel in mm, ``(rank, *spatial)``.
      center: Around which the Gaussians lie, in mm, ``(rank,)``.
      size: The Gaussians deviate by .22 of it, their places by a quarter.
      seed: Of the places; a lump of one seed always has one form.

    Returns:
      1 inside and 0 outside, ``(*spatial,)``.

    References:
      Blinn, A generalization of algebraic surface drawing, 1982.

    Example:
      >>> grid = np.indices((48, 48), dtype=np.float64)
      >>> mask = lump(grid, np.array([23.5, 23.5]), 20.0, seed=0)
      >>> bool(mask[23, 23]), bool(mask[0, 0])
      (True, False)
    """
    rank = len(coordinates)
    places = 0.25 * np.random.default_rng(seed).standard_normal((4, rank))
    places -= places.mean(axis=0)
    offset = (coordinates - _column(center, coordinates)) / size
    density = sum(
        np.exp(-((offset - _column(place, coordinates)) ** 2).sum(axis=0) / (2 * 0.22**2))
        for place in places
    )
    return (np.asarray(density) > 0.6).astype(np.float64)


def as_large_as(
    coordinates: Coordinates,
    center: Float[np.ndarray, " rank"],
    size: float,
    *,
    other: Shape,
    shape: Shape,
) -> Mask:
    """A shape with the area (volume) that another one of the same size has.

    Args:
      coordinates: Position of every voxel in mm, ``(rank, *spatial)``.
      center: Its centre in mm, ``(rank,)``.
      size: Of the other shape.
      other: The one whose area it has.
      shape: What is drawn.

    Returns:
      The shape's values, ``(*spatial,)``.

    Example:
      >>> grid = np.indices((48, 48), dtype=np.float64)
      >>> mask = as_large_as(grid, np.array([23.5, 23.5]), 20.0, other=square, shape=gaussian)
      >>> round(float(mask.sum()))  # 20 * 20
      400
    """
    rank = len(coordinates)
    times = equal_area_side(other, rank) / equal_area_side(shape, rank)
    return shape(coordinates, center, size * times)


@functools.lru_cache(maxsize=256)
def equal_area_side(shape: Shape, rank: int) -> float:
    """Side of the square (cube) that has the area of a shape of size 1.

    Args:
      shape: The shape; the area of a soft one is the sum of its mask.
      rank: 2 or 3.

    Raises:
      ValueError: The shape is empty.

    Example:
      >>> round(equal_area_side(square, 2), 2)
      1.0
    """
    size = 48.0 if rank == 2 else 20.0
    # Half a voxel off, so that an even size covers as many voxels as it says.
    axis = np.arange(-1.5 * size, 1.5 * size) + 0.5
    offsets = np.stack(np.meshgrid(*[axis] * rank, indexing="ij"))
    area = float(np.asarray(shape(offsets, np.zeros(rank), size)).sum())
    if not 0 < area < math.inf:
        raise ValueError(
            f"The lesion shape {getattr(shape, '__name__', shape)!r} has the area {area} at size "
            f"{size}; expected a mask that is somewhere above 0."
        )
    return area ** (1 / rank) / size


@functools.lru_cache(maxsize=256)
def _reach(shape: Shape, direction: tuple[int, ...]) -> float:
    """How many times a direction leads from the centre of a shape of size 1 to its border."""
    times = np.linspace(0, 1.5, 1501)
    # With an axis for each dimension, as a shape of the user's own may expect.
    along = times.reshape(-1, *[1] * (len(direction) - 1))
    line = np.stack([each * along for each in direction])
    inside = np.asarray(shape(line, np.zeros(len(direction)), 1.0)) >= 0.5
    return float(along[inside].max(initial=0.0))


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {"square": square, "gaussian": gaussian, "disc": disc}
)
"""The lesion shapes that tasks know by name."""


def _column(center: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    return np.reshape(center, (-1,) + (1,) * (coordinates.ndim - 1))
