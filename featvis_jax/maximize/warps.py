"""Warping an image by a displacement, and how much the map makes anything grow.

A voxel x of the warped image shows what lies at phi(x) = x + u(x) in the image. What is seen at x
has grown by 1 / det(d phi / dx): where phi reads from a region more slowly than it walks, the
region is drawn larger.

phi is kept one to one by bounds on the coefficients of u, not by integrating a velocity. With
coefficients of at most `bound_mm`, no row of the derivative of u adds up to more than a `strain`
below 1 in absolute values (`featvis_jax.maximize.splines.LARGEST_SLOPE`). Then

* |u(x) - u(y)| <= strain |x - y| in the largest coordinate, in mm: two points never meet, and phi
  is one to one and onto;
* every eigenvalue of the derivative of u is at most `strain`, and the determinant, the product of 1
  plus each, lies within (1 - strain)^n and (1 + strain)^n (`determinant_limits`).

Both hold everywhere, between voxels too, whatever the parameters are. A stationary velocity field,
scaled and squared, would allow larger movements. But it would make half a dozen warps of each step,
whose gradients scatter, and its determinant is that of a map which interpolation has changed. Here
determinant and map are of one formula and exact.

References:
  Choi, Lee, Injectivity conditions of 2D and 3D uniform cubic B-spline functions, 2000.
  Rueckert, Aljabar, Heckemann, Hajnal, Hammers, Diffeomorphic registration using B-splines, 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from featvis_jax.maximize import splines
from featvis_jax.maximize.splines import ControlGrid, Places
from featvis_jax.types import Image


def bound_mm(grid: ControlGrid, *, strain: float) -> float:
    """The largest coefficient with which no length changes by more than a share.

    Args:
      grid: The control points.
      strain: The share, in (0, 1).

    Example:
      >>> round(bound_mm(splines.control_grid((60, 60), spacing_mm=12.0), strain=0.75), 2)
      4.4
    """
    spacing_mm = grid.spacing[0] * grid.voxel_size_mm[0]
    return strain * spacing_mm / splines.LARGEST_SLOPE[len(grid.shape)]


def determinant_limits(rank: int, *, strain: float) -> tuple[float, float]:
    """Between what the determinant of a map lies whose coefficients keep to `bound_mm`.

    Args:
      rank: Number of axes.
      strain: As there.

    Example:
      >>> determinant_limits(2, strain=0.5)
      (0.25, 2.25)
    """
    return (1 - strain) ** rank, (1 + strain) ** rank


def displacement(
    coefficients_mm: Float[Array, " rank *points"],
    grid: ControlGrid,
    *,
    places: Places | None = None,
) -> list[Float[Array, "*spatial"]]:
    """A displacement at every voxel along each axis, in voxels.

    Args:
      coefficients_mm: Of every control point, for each axis of the image.
      grid: The control points.
      places: For each axis where to look, in voxels; by default at every voxel.
    """
    return [
        splines.evaluate(component, grid, places=places) / size
        for component, size in zip(coefficients_mm, grid.voxel_size_mm, strict=True)
    ]


def determinant(
    coefficients_mm: Float[Array, " rank *points"],
    grid: ControlGrid,
    *,
    places: Places | None = None,
) -> Float[Array, "*spatial"]:
    """Determinant of the derivative of phi at every voxel, from the derivatives of the splines.

    Args:
      coefficients_mm: Of every control point, for each axis of the image.
      grid: The control points.
      places: For each axis where to look, in voxels; by default at every voxel.

    Example:
      >>> grid = splines.control_grid((9, 7), spacing_mm=4.0)
      >>> determinant(jnp.zeros((2, *grid.shape)), grid)[0, :2].tolist()
      [1.0, 1.0]
    """
    rank = len(grid.shape)
    rows = [
        [
            # A length in voxels along one axis is another in mm than along the next.
            splines.evaluate(
                component, grid, derivatives=[int(a == axis) for a in range(rank)], places=places
            )
            / grid.voxel_size_mm[number]
            + float(number == axis)
            for axis in range(rank)
        ]
        for number, component in enumerate(coefficients_mm)
    ]
    return _determinant(rows)


def log_growth(
    coefficients_mm: Float[Array, " rank *points"],
    grid: ControlGrid,
    *,
    places: Places | None = None,
) -> Float[Array, "*spatial"]:
    """How much larger what is seen at a voxel of the warped image is than in the image.

    The natural logarithm of the ratio of volumes, -log det(d phi / dx); areas of slices.

    Args:
      coefficients_mm: A vector for every control point, within `bound_mm`.
      grid: The control points.
      places: For each axis where to look, in voxels; by default at every voxel.
    """
    return -jnp.log(determinant(coefficients_mm, grid, places=places))


def _determinant(rows: list[list[Float[Array, "*shape"]]]) -> Float[Array, "*shape"]:
    """Of a small matrix at every place, along its first row."""
    if len(rows) == 1:
        return rows[0][0]
    total = jnp.zeros_like(rows[0][0])
    for column, entry in enumerate(rows[0]):
        minor = [row[:column] + row[column + 1 :] for row in rows[1:]]
        total += (-1) ** column * entry * _determinant(minor)
    return total


def warp(image: Image, displacement: Sequence[Float[Array, "*spatial"]]) -> Image:
    """An image read at x + u(x) at every voxel x, by linear interpolation.

    Beyond its edges it goes on as at its edges (SciPy's mode "nearest"). The gradient with respect
    to the displacement is the slope of the interpolation: no more than the voxels that were read.
    That with respect to the image would be a scatter, and nothing here asks for it.

    Args:
      image: What to read from.
      displacement: u along each axis, in voxels.

    Returns:
      An image of the same shape and dtype.

    Example:
      >>> ramp = jnp.arange(4.0)[:, None, None] * jnp.ones((4, 3, 1))
      >>> warp(ramp, [jnp.full((4, 3), 0.25)] * 2)[:, 0, 0].tolist()
      [0.25, 1.25, 2.25, 3.0]
    """
    shape = image.shape[:-1]
    corner, shares = jnp.zeros(shape, jnp.int32), []
    for axis, side in enumerate(shape):
        voxels = lax.broadcasted_iota(displacement[axis].dtype, shape, axis)
        place = jnp.clip(voxels + displacement[axis], 0, side - 1)
        # The last voxel is the upper end of the last interval, whose slope it has.
        first = lax.stop_gradient(jnp.clip(jnp.floor(place), 0, max(side - 2, 0)))
        corner = corner * side + first.astype(jnp.int32)
        shares.append((place - first).astype(image.dtype)[..., None])
    rows = image.reshape(math.prod(shape), image.shape[-1])

    def between(axis: int, offset: int) -> Image:
        """What lies between the voxels of the further axes, from a corner on."""
        if axis == len(shape):
            return rows[corner + offset]
        stride = math.prod(shape[axis + 1 :])
        low = between(axis + 1, offset)
        if shape[axis] == 1:
            return low
        return low + shares[axis] * (between(axis + 1, offset + stride) - low)

    return between(0, 0)
