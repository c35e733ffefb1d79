"""Grids of voxels in the world, and how the voxels of one are found on another.

What comes in is laid onto a network's grid by where it lies, not by the order of its axes: a scan
stored from right to left, or on a larger grid, gives the same image. Nothing is resampled: grids
whose voxels do not coincide are refused.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Shaped
from nibabel import aff2axcodes
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import io_orientation

from featvis_jax.data.crops import centred_start, cut

TOLERANCE = 0.01
"""How far voxels may lie apart and still count as the same, as a share of a voxel."""


class GridError(ValueError):
    """Two grids that do not fit; the message says how, and names neither."""


class Grid(NamedTuple):
    """Where voxels lie.

    Attributes:
      shape: Voxels along each axis; two numbers for a slice, which is one voxel thick.
      affine: ``(4, 4)``, voxel indices to mm; None where nobody knows.
      anywhere: Whether it stands for boxes of its shape at any place: of patches the affine tells
        the size of voxels and the directions of axes, and a place that stands for all.
    """

    shape: tuple[int, ...]
    affine: Float64[np.ndarray, "4 4"] | None
    anywhere: bool = False

    @property
    def box(self) -> tuple[int, int, int]:
        """Voxels along three axes."""
        x, y, z = (*self.shape, 1, 1)[:3]
        return x, y, z


class Placement(NamedTuple):
    """How the voxels of a grid are found in an array on another one.

    Attributes:
      axes: The array's axis that runs along each axis of the grid.
      flips: Whether it runs the other way.
      start: The grid's first voxel, in the array turned to its axes.
      shape: Of the grid.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(
        self, array: Shaped[np.ndarray, "..."], *, outside: float = 0.0
    ) -> Shaped[np.ndarray, "..."]:
        """The array on the grid; further axes are kept.

        Args:
          array: Its axes first.
          outside: What stands where the grid reaches beyond it.

        Example:
          >>> Placement((1, 0), (False, True), (0, 1), (2, 2))(np.arange(6).reshape(3, 2))
          array([[2, 0],
                 [3, 1]])
        """
        turned = array.transpose(*self.axes, *range(len(self.axes), array.ndim))
        turned = turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]
        return cut(turned, self.start, self.shape, outside=outside)

    def outside(self, shape: Sequence[int]) -> tuple[int, ...]:
        """How many voxels the grid reaches beyond an array of some shape, along each axis."""
        sizes = [shape[axis] for axis in self.axes]
        return tuple(
            max(-first, 0) + max(first + want - have, 0)
            for first, want, have in zip(self.start, self.shape, sizes, strict=True)
        )

    def in_plane(self) -> "Placement":
        """The part of a slice's placement that holds for every slice of the array.

        Raises:
          GridError: The array's slices are not the grid's: their third axes differ.
        """
        if self.axes[2] != 2:
            raise GridError(
                "its slices run along another axis of the world than the scans' axial ones"
            )
        return Placement(self.axes[:2], self.flips[:2], self.start[:2], self.shape[:2])


def centred(have: Sequence[int], want: Sequence[int]) -> Placement:
    """The placement of a box about the centre of an array, with its axes as they are.

    Args:
      have: Shape of the array.
      want: Shape of the box.
    """
    rank = len(want)
    start = centred_start(have, want)
    return Placement(tuple(range(rank)), (False,) * rank, start, tuple(want))


def placement(
    source: Grid, target: Grid, *, any_slice: bool = False, any_place: bool = False
) -> Placement:
    """Where the voxels of one grid are on another, by their places in the world.

    Axes may be permuted and flipped, and either grid may be the larger one. An axis with one voxel
    has no spacing of its own.

    Args:
      source: Of the array that voxels are taken from.
      target: The grid that they are wanted on.
      any_slice: Take a target of one slice for a slice at any height.
      any_place: Take the target for a box at any place.

    Returns:
      The placement, with three axes; at any place, where it starts means nothing.

    Raises:
      GridError: The voxels do not coincide.

    Example:
      >>> affine = np.array([[-1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
      >>> las = Grid((4, 4, 4), affine)
      >>> placement(las, Grid((2, 4, 4), np.eye(4)))
      Placement(axes=(0, 1, 2), flips=(True, False, False), start=(0, 0, 0), shape=(2, 4, 4))
    """
    there, here = source.affine, target.affine
    if there is None or here is None:
        raise GridError("one of the grids does not tell where it lies")
    there, here = np.array(there, np.float64), np.array(here, np.float64)
    axes, signs = _matching_axes(there, here)
    for axis, (own, sign) in enumerate(zip(axes, signs, strict=True)):
        if target.box[axis] == 1:
            here[:3, axis] = sign * there[:3, own]
        elif source.box[own] == 1:
            there[:3, own] = sign * here[:3, axis]
    turned = np.eye(4)
    turned[:3, :3] = there[:3, axes] * signs
    first = [0 if sign > 0 else source.box[own] - 1 for own, sign in zip(axes, signs, strict=True)]
    turned[:3, 3] = apply_affine(there, np.array(first)[np.argsort(axes)])
    corners = _corners(target)
    places = apply_affine(here, corners)
    # Of a damaged affine even what is no number has to be refused, and not by a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            shifts = apply_affine(np.linalg.inv(turned), places) - corners
        except np.linalg.LinAlgError:
            raise GridError("its slice is perpendicular to those expected") from None
        start = np.round((shifts.min(axis=0) + shifts.max(axis=0)) / 2)
        exact = start.copy()
        if any_slice and target.box[2] == 1:
            exact[2] = shifts[:, 2].mean()
        if any_place:
            exact = shifts.mean(axis=0)
        apart = np.linalg.norm(apply_affine(turned, corners + exact) - places, axis=1).max()
        if not apart <= TOLERANCE * voxel_sizes(here).min():
            raise GridError(_difference(source, target, turned, here, axes, float(apart)))
    return Placement(
        tuple(axes), tuple(sign < 0 for sign in signs), tuple(int(n) for n in start), target.box
    )


def coincide(first: Grid, second: Grid, *, any_slice: bool = False) -> bool:
    """Whether the voxels of two grids are the same ones in the same order, or both are anywhere.

    Args:
      first: A grid.
      second: Another one.
      any_slice: Take slices at different heights for the same.
    """
    try:
        anywhere = first.anywhere and second.anywhere
        placed = placement(first, second, any_slice=any_slice, any_place=anywhere)
    except GridError:
        return False
    rank = 0 if anywhere else len(second.shape) if any_slice else 3
    same = first.box == second.box and placed.axes == (0, 1, 2) and not any(placed.flips)
    return same and not any(placed.start[:rank])


def _corners(grid: Grid) -> Int[np.ndarray, "8 3"]:
    return np.array(list(itertools.product(*((0, n - 1) for n in grid.box))))


def _matching_axes(
    there: Float64[np.ndarray, "4 4"], here: Float64[np.ndarray, "4 4"]
) -> tuple[list[int], list[int]]:
    """The axis of one affine nearest to each axis of another, and whether it runs that way."""
    between = np.eye(4)
    try:
        between[:3, :3] = np.linalg.inv(here[:3, :3]) @ there[:3, :3]
        orientation = io_orientation(between)
    except np.linalg.LinAlgError:
        orientation = np.full((3, 2), np.nan)
    if not np.isfinite(orientation).all():
        raise GridError("axes cannot be told apart by an affine")
    axes = [int(axis) for axis in orientation[:, 0].argsort()]
    return axes, [int(sign) for sign in orientation[axes, 1]]


def _difference(
    source: Grid,
    target: Grid,
    turned: Float64[np.ndarray, "4 4"],
    here: Float64[np.ndarray, "4 4"],
    axes: list[int],
    apart_mm: float,
) -> str:
    """How the voxels of two grids fail to coincide, in words and numbers."""
    sizes, wanted = voxel_sizes(turned), voxel_sizes(here)
    if not np.allclose(sizes, wanted, rtol=1e-3):
        return f"its voxels are {_sizes(sizes)} mm, expected {_sizes(wanted)} mm"
    cosines = (turned[:3, :3] * here[:3, :3]).sum(axis=0) / (sizes * wanted)
    degrees = math.degrees(math.acos(min(1.0, max(-1.0, float(cosines.min())))))
    if degrees > 0.1:
        return f"its axes are turned by {degrees:.1f} degrees against those expected"
    if tuple(source.box[axis] for axis in axes) == target.box:
        corners = _corners(target)
        moved = apply_affine(turned, corners) - apply_affine(here, corners)
        apart_mm = float(np.linalg.norm(moved, axis=1).max())
        return f"its affine puts voxels up to {apart_mm:.3g} mm from where they are expected"
    return f"its voxels lie up to {apart_mm:.3g} mm beside the nearest ones expected"


def _sizes(sizes_mm: Float64[np.ndarray, "3"]) -> str:
    return " x ".join(f"{size:.5g}" for size in sizes_mm.tolist())


def described(grid: Grid) -> str:
    """A grid in words.

    Example:
      >>> described(Grid((140, 192), np.diag([-1.0, 1.0, 1.0, 1.0])))
      '140 x 192 x 1 voxels of 1 x 1 x 1 mm, LAS, first at (0, 0, 0) mm'
    """
    shape = " x ".join(map(str, grid.box))
    if grid.affine is None:
        return f"{shape} voxels"
    first = ", ".join(f"{place:.4g}" for place in grid.affine[:3, 3])
    place = "anywhere in the brain" if grid.anywhere else f"first at ({first}) mm"
    codes = "".join(aff2axcodes(grid.affine))
    return f"{shape} voxels of {_sizes(voxel_sizes(grid.affine))} mm, {codes}, {place}"
