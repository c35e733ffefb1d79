"""Where a picture lies in the body: the planes of a grid, the letters at their sides, millimetres.

Everything follows from the affine. A picture has the first of its two axes to the right and the
second one up, as in `featvis_jax.results.pixels`; which side of the subject that is, the affine
tells, and the letters at the sides of a picture say it. Of a grid without an affine nobody knows
it: its planes go by the axes of the array, i, j and k, and its slices by their numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import nibabel
import numpy as np

from featvis_jax.results.nifti import Affine

_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}
_WORLD_AXES = {"L": "x", "R": "x", "P": "y", "A": "y", "I": "z", "S": "z"}
_NAMES = {"x": "sagittal", "y": "coronal", "z": "axial"}
_AXES = "ijk"


class Plane(NamedTuple):
    """One of the directions in which a grid is cut.

    Example:
      >>> planes(np.eye(4), (4, 5))[0].top
      'A'
    """

    name: str
    """axial, coronal or sagittal, the direction that the normal is closest to; or ij, ik, jk"""
    normal: int
    """axis of the grid that the plane is cut across"""
    width: int
    """voxels to the right"""
    height: int
    """voxels up"""
    left: str
    right: str
    top: str
    bottom: str

    @property
    def ways(self) -> str:
        """Which way up it is shown.

        Example:
          >>> planes(np.eye(4), (4, 5))[0].ways, planes(None, (4, 5))[0].ways
          ('A up, L on the left', 'i to the right, j up')
          >>> planes(None, (4, 5), is_picture=True)[0].ways
          'i down, j to the right'
        """
        if self.left:
            return f"{self.top} up, {self.left} on the left"
        if self.bottom:
            return f"{self.bottom} down, {self.right} to the right"
        return f"{self.right} to the right, {self.top} up"


def planes(
    affine: Affine | None, shape: tuple[int, ...], *, is_picture: bool = False
) -> list[Plane]:
    """Return the planes of a grid, in the order in which `pixels.middle_planes` shows them.

    Args:
      affine: From voxel indices to millimetres, invertible; None if nobody knows.
      shape: (x, y) of a slice, or (x, y, z) of a volume.
      is_picture: Whether it is of (rows, columns), and lies nowhere in a body.

    Returns:
      One plane for a slice, three for a volume.

    Example:
      >>> [plane.name for plane in planes(np.eye(4), (2, 3, 4))]
      ['axial', 'coronal', 'sagittal']
      >>> planes(np.diag([-1.0, 1.0, 1.0, 1.0]), (2, 3))[0].right
      'L'
      >>> [plane.name for plane in planes(None, (2, 3, 4))]
      ['ij', 'ik', 'jk']
    """
    if is_picture:
        rows, columns = shape
        return [Plane("ij", 2, columns, rows, "", "j", "", "i")]
    codes = None if affine is None else nibabel.aff2axcodes(affine)
    found = []
    for right, up, normal in ((0, 1, 2), (0, 2, 1), (1, 2, 0))[: 1 if len(shape) == 2 else 3]:
        if codes is None:
            name, sides = _AXES[right] + _AXES[up], ("", _AXES[right], _AXES[up], "")
        else:
            name = _NAMES[_WORLD_AXES[codes[normal]]]
            sides = _OPPOSITE[codes[right]], codes[right], codes[up], _OPPOSITE[codes[up]]
        found.append(Plane(name, normal, shape[right], shape[up], *sides))
    return found


def same(affines: Sequence[Affine | None]) -> Affine | None:
    """Return what several grids share, if they lie alike; None if they do not.

    Args:
      affines: At least one.

    Example:
      >>> same([np.eye(4), np.eye(4)]) is None, same([np.eye(4), None]) is None
      (False, True)
    """
    first, *others = affines
    if first is None or any(each is None or not np.allclose(each, first) for each in others):
        return None
    return first


def position(affine: Affine | None, shape: tuple[int, ...], *, normal: int, index: int) -> str:
    """Say where a slice lies, by the middle of it.

    Args:
      affine: From voxel indices to millimetres; None if nobody knows.
      shape: (x, y) of a slice, or (x, y, z) of a volume.
      normal: Axis of the grid that the slice is cut across.
      index: Of the slice along that axis.

    Returns:
      Millimetres along the world axis that the normal is closest to, or the number of the slice;
      nothing for a grid that is one slice in no known place.

    Example:
      >>> position(np.diag([2.0, 2.0, 2.0, 1.0]), (5, 5, 5), normal=2, index=3)
      'z = 6 mm'
      >>> position(None, (5, 5, 5), normal=2, index=3)
      'slice k = 3'
    """
    if affine is None:
        return f"slice {_AXES[normal]} = {index}" if len(shape) == 3 else ""
    middle = np.array([*((length - 1) / 2 for length in (*shape, 1)[:3]), 1.0])
    middle[normal] = index
    letter = nibabel.aff2axcodes(affine)[normal]
    axis = _WORLD_AXES[letter]
    place = float((affine @ middle)["xyz".index(axis)])
    return f"{axis} = {minus(f'{place + 0.0:.4g}')} mm"


def voxel_size_mm(affine: Affine | None, shape: tuple[int, ...]) -> list[float] | None:
    """Return the voxel size along the axes of a grid.

    Args:
      affine: From voxel indices to millimetres; None if nobody knows.
      shape: (x, y) of a slice, or (x, y, z) of a volume.

    Returns:
      Millimetres, one number per axis; None if nobody knows.

    Example:
      >>> voxel_size_mm(np.diag([2.0, 3.0, 4.0, 1.0]), (9, 9))
      [2.0, 3.0]
    """
    if affine is None:
        return None
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return [round(float(size), 4) for size in sizes[: len(shape)]]


def minus(text: str) -> str:
    """Set a number with a minus sign, not with a hyphen.

    Example:
      >>> minus("-1.5")
      '−1.5'
    """
    return text.replace("-", "\u2212")
