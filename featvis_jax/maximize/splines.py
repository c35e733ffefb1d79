"""Smooth fields from few numbers: cubic B-splines on a grid of control points.

    v(x) = sum over k of c_k B(x_1 / s_1 - k_1) ... B(x_n / s_n - k_n)

with B the cubic B-spline, which is 0 beyond two spacings s, and x in voxels. The sum runs over one
axis after the other, as products with small matrices: those of the values, and of first and second
derivatives, are exact and as fast. What is quadratic in the field, its energy, is a product of such
matrices on the control points alone, however many voxels there are. Total variation is not, and is
summed over places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64

from featvis_jax.types import Scalar

LARGEST_SLOPE = {1: 1.5, 2: 2.046392675, 3: 2.479472335}
"""By rank, the most that sum_b |dv / d(x_b / s_b)| is anywhere for coefficients within +-1.

The largest value of sum_k |sum_b d_b B_k|, at t = (.7552, .7552) and (.8359, .8359, .8359) of a
spacing; Choi and Lee derive the same numbers.
"""

SMOOTH_SLOPE = 0.02
"""Below about 2 % the cost of a slope falls with its square, above it grows with the slope."""

Places = Sequence[Float64[np.ndarray, " _"]]
"""For each axis where to look along it, in voxels."""


class ControlGrid(NamedTuple):
    """Control points over an image.

    Attributes:
      shape: Number of control points along each axis.
      spatial: Voxels of the image along each axis.
      spacing: From one control point to the next along each axis, in voxels.
      voxel_size_mm: Of the image, along each axis.
    """

    shape: tuple[int, ...]
    spatial: tuple[int, ...]
    spacing: tuple[float, ...]
    voxel_size_mm: tuple[float, ...]


def control_grid(
    spatial: Sequence[int], *, spacing_mm: float, voxel_size_mm: float | Sequence[float] = 1.0
) -> ControlGrid:
    """Lay control points over an image, about its centre, so that they reach beyond all its edges.

    Args:
      spatial: Voxels along each of one to three axes.
      spacing_mm: From one control point to the next, along every axis; at least two voxels.
      voxel_size_mm: Along each axis, or one number for all.

    Raises:
      ValueError: A number is out of bounds.

    Example:
      >>> control_grid((140, 192), spacing_mm=12.0).shape
      (15, 19)
    """
    rank = len(spatial)
    sizes = (
        (float(voxel_size_mm),) * rank
        if isinstance(voxel_size_mm, (int, float))
        else tuple(float(size) for size in voxel_size_mm)
    )
    if not 1 <= rank <= 3 or min(spatial) < 1:
        raise ValueError(f"spatial is {tuple(spatial)}; expected one to three numbers from 1.")
    if len(sizes) != rank or not all(0 < size < math.inf for size in sizes):
        raise ValueError(f"voxel_size_mm is {voxel_size_mm}; expected {rank} numbers above 0.")
    if not 2 * max(sizes) <= spacing_mm < math.inf:
        raise ValueError(
            f"spacing_mm is {spacing_mm:g}, and the voxels are of {max(sizes):g} mm: expected at "
            f"least two voxels, {2 * max(sizes):g} mm, from one control point to the next."
        )
    spacing = tuple(spacing_mm / size for size in sizes)
    shape = tuple(
        max(1, math.ceil((side - 1) / each)) + 3
        for side, each in zip(spatial, spacing, strict=True)
    )
    return ControlGrid(shape, tuple(int(side) for side in spatial), spacing, sizes)


def weights(
    grid: ControlGrid,
    axis: int,
    *,
    derivative: int = 0,
    places: Float64[np.ndarray, " places"] | None = None,
) -> Float64[np.ndarray, "places points"]:
    """What the control points of an axis weigh at places along it.

    Args:
      grid: The control points.
      axis: Which.
      derivative: 0 for values, 1 and 2 for derivatives per voxel and per voxel squared.
      places: In voxels; by default every voxel.

    Example:
      >>> matrix = weights(control_grid((9,), spacing_mm=4.0), 0)
      >>> matrix.shape, bool(np.allclose(matrix.sum(1), 1))
      ((9, 5), True)
    """
    spacing, points = grid.spacing[axis], grid.shape[axis]
    voxels = np.arange(grid.spatial[axis]) if places is None else places
    centred = (np.asarray(voxels, np.float64) - (grid.spatial[axis] - 1) / 2) / spacing
    # The first and the last interval between points have a point more on either side.
    t = centred[:, None] + (points - 1) / 2 - np.arange(points)
    far, sign = np.abs(t), np.sign(t)
    near, rest = far < 1, np.maximum(2 - far, 0)
    if derivative == 0:
        return np.where(near, 2 / 3 - far**2 + far**3 / 2, rest**3 / 6)
    if derivative == 1:
        return sign * np.where(near, 1.5 * far**2 - 2 * far, -(rest**2) / 2) / spacing
    return np.where(near, 3 * far - 2, rest) / spacing**2


def evaluate(
    coefficients: Float[Array, "*points"],
    grid: ControlGrid,
    *,
    derivatives: Sequence[int] | None = None,
    places: Places | None = None,
) -> Float[Array, "*spatial"]:
    """A field, or a derivative of it, at every voxel.

    Args:
      coefficients: Of every control point.
      grid: The control points.
      derivatives: For each axis how often to derive along it, per voxel; none by default.
      places: For each axis where to look, in voxels; by default at every voxel.

    Example:
      >>> grid = control_grid((9, 7), spacing_mm=4.0)
      >>> field = evaluate(jnp.ones(grid.shape), grid)
      >>> field.shape, bool(jnp.allclose(field, 1.0))
      ((9, 7), True)
    """
    orders = (0,) * len(grid.shape) if derivatives is None else derivatives
    return _along_axes(
        coefficients,
        [
            weights(grid, axis, derivative=order, places=None if places is None else places[axis])
            for axis, order in enumerate(orders)
        ],
    )


def mean_square(
    coefficients: Float[Array, "*points"],
    grid: ControlGrid,
    *,
    derivatives: Sequence[int] | None = None,
) -> Scalar:
    """Mean square over the voxels of a field, or of a derivative of it.

    Args:
      coefficients: Of every control point.
      grid: The control points.
      derivatives: As in `evaluate`.

    Example:
      >>> grid = control_grid((9, 7), spacing_mm=4.0)
      >>> round(float(mean_square(2 * jnp.ones(grid.shape), grid)), 3)
      4.0
    """
    orders = (0,) * len(grid.shape) if derivatives is None else derivatives
    products = []
    for axis, order in enumerate(orders):
        matrix = weights(grid, axis, derivative=order)
        products.append(matrix.T @ matrix / len(matrix))
    return jnp.sum(coefficients * _along_axes(coefficients, products))


def membrane_energy(coefficients: Float[Array, " components *points"], grid: ControlGrid) -> Scalar:
    """Mean over the voxels of |grad v|^2, with derivatives per mm: 0 for what moves as a whole.

    Args:
      coefficients: Of every control point, in mm for a displacement; the energy has then no unit.
      grid: The control points.

    Example:
      >>> grid = control_grid((9, 7), spacing_mm=4.0)
      >>> abs(round(float(membrane_energy(jnp.ones((2, *grid.shape)), grid)), 5))
      0.0
    """
    rank = len(grid.shape)
    total = jnp.zeros((), coefficients.dtype)
    for axis, size in enumerate(grid.voxel_size_mm):
        orders = [int(other == axis) for other in range(rank)]
        for component in coefficients:
            total += mean_square(component, grid, derivatives=orders) / size**2
    return total


def bending_energy(coefficients: Float[Array, " components *points"], grid: ControlGrid) -> Scalar:
    """Mean over the voxels of all squared second derivatives, for lengths in control spacings.

        s^2 mean over x of sum over a, b of |d_a d_b v|^2,   s the spacing in mm

    It is 0 for what moves, turns, shears or grows evenly. The factor makes it a number without a
    unit, of a size with the membrane's.

    Args:
      coefficients: Of every control point, in mm for a displacement.
      grid: The control points.

    References:
      Rueckert, Sonoda, Hayes, Hill, Leach, Hawkes, Nonrigid registration using free-form
      deformations, 1999.
    """
    rank = len(grid.shape)
    total = jnp.zeros((), coefficients.dtype)
    for first in range(rank):
        for second in range(first, rank):
            orders = [int(axis == first) + int(axis == second) for axis in range(rank)]
            sizes = grid.voxel_size_mm[first] * grid.voxel_size_mm[second]
            times = (1 if first == second else 2) / sizes**2
            for component in coefficients:
                total += times * mean_square(component, grid, derivatives=orders)
    return (grid.spacing[0] * grid.voxel_size_mm[0]) ** 2 * total


def total_variation(
    coefficients: Float[Array, " components *points"],
    grid: ControlGrid,
    *,
    places: Places | None = None,
) -> Scalar:
    """Mean over places of |grad v|, with derivatives per mm: 0 for what moves as a whole.

    Where the membrane's energy spreads a change over all that it can reach, total variation keeps
    it to few places, and lets it be as large there as it has to be. Slopes below about
    `SMOOTH_SLOPE` cost their square, so that there is a gradient where nothing has moved.

    Args:
      coefficients: Of every control point, in mm for a displacement; the result has then no unit.
      grid: The control points.
      places: For each axis where to look, in voxels; by default at every voxel.

    References:
      Vishnevskiy, Gass, Szekely, Tanner, Goksel, Isotropic total variation regularization of
      displacement fields in parametric image registration, 2017.

    Example:
      >>> grid = control_grid((9, 7), spacing_mm=4.0)
      >>> abs(round(float(total_variation(jnp.ones((2, *grid.shape)), grid)), 5))
      0.0
    """
    rank = len(grid.shape)
    squares = [
        jnp.square(
            evaluate(
                component, grid, derivatives=[int(a == axis) for a in range(rank)], places=places
            )
            / size
        )
        for axis, size in enumerate(grid.voxel_size_mm)
        for component in coefficients
    ]
    return jnp.mean(smooth_length(sum(squares[1:], squares[0])))


def smooth_length(squares: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Root of a sum of squares, less steep than a root near 0.

    Args:
      squares: From 0, of slopes or of other shares.

    Example:
      >>> lengths = smooth_length(jnp.array([0.0, 0.02**2, 0.5**2]))
      >>> [round(float(length), 4) for length in lengths]
      [0.0, 0.0083, 0.4804]
    """
    return jnp.sqrt(squares + SMOOTH_SLOPE**2) - SMOOTH_SLOPE


def _along_axes(
    values: Float[Array, ...], matrices: Sequence[Float64[np.ndarray, "_ _"]]
) -> Float[Array, ...]:
    """Values multiplied along each axis by a matrix."""
    for matrix in matrices:
        # The first axis becomes the last, until they are in order again. So the products of the
        # gradient run along what lies side by side in memory. Full precision, since an
        # accelerator's default would round to 8 to 10 bits.
        values = jnp.tensordot(
            values,
            jnp.asarray(matrix, values.dtype),
            axes=((0,), (1,)),
            precision=lax.Precision.HIGHEST,
        )
    return values
