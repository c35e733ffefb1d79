"""Where a picture lies in the body: the planes of a grid, the letters at their sides, millimetres.

Everything follows from the affine. A picture has the first of its two axes to the right and the
second one up, as in `featvis_jax.results.pixels`; which side of the subject that is, the affine
tells, and the letters at the sides of a picture say it.
"""

from typing import NamedTuple

import nibabel
import numpy as np
from jaxtyping import Float

_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}
_WORLD_AXES = {"L": "x", "R": "x", "P": "y", "A": "y", "I": "z", "S": "z"}
_NAMES = {"x": "sagittal", "y": "coronal", "z": "axial"}


class Plane(NamedTuple):
    """One of the directions in which a grid is cut.

    >>> planes(np.eye(4), (4, 5))[0].top
    'A'
    """

    name: str
    """axial, coronal or sagittal: the direction that the normal is closest to"""
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


def planes(affine: Float[np.ndarray, "4 4"], shape: tuple[int, ...]) -> list[Plane]:
    """Return the planes of a grid, in the order in which `pixels.middle_planes` shows them.

    Args:
        affine: from voxel indices to millimetres, invertible.
        shape: (x, y) of a slice, or (x, y, z) of a volume.

    Returns:
        One plane for a slice, three for a volume.

    >>> [plane.name for plane in planes(np.eye(4), (2, 3, 4))]
    ['axial', 'coronal', 'sagittal']
    >>> planes(np.diag([-1.0, 1.0, 1.0, 1.0]), (2, 3))[0].right
    'L'
    """
    codes = nibabel.aff2axcodes(affine)
    found = []
    for right, up, normal in ((0, 1, 2), (0, 2, 1), (1, 2, 0))[: 1 if len(shape) == 2 else 3]:
        found.append(
            Plane(
                name=_NAMES[_WORLD_AXES[codes[normal]]],
                normal=normal,
                width=shape[right],
                height=shape[up],
                left=_OPPOSITE[codes[right]],
                right=codes[right],
                top=codes[up],
                bottom=_OPPOSITE[codes[up]],
            )
        )
    return found


def position(
    affine: Float[np.ndarray, "4 4"], shape: tuple[int, ...], *, normal: int, index: int
) -> str:
    """Say where a slice lies, by the middle of it.

    Args:
        affine: from voxel indices to millimetres.
        shape: (x, y) of a slice, or (x, y, z) of a volume.
        normal: axis of the grid that the slice is cut across.
        index: of the slice along that axis.

    Returns:
        Millimetres along the world axis that the normal is closest to.

    >>> position(np.diag([2.0, 2.0, 2.0, 1.0]), (5, 5, 5), normal=2, index=3)
    'z = 6 mm'
    """
    middle = np.array([*((length - 1) / 2 for length in (*shape, 1)[:3]), 1.0])
    middle[normal] = index
    letter = nibabel.aff2axcodes(affine)[normal]
    axis = _WORLD_AXES[letter]
    place = float((affine @ middle)["xyz".index(axis)])
    return f"{axis} = {minus(f'{place + 0.0:.4g}')} mm"


def voxel_size_mm(affine: Float[np.ndarray, "4 4"], shape: tuple[int, ...]) -> list[float]:
    """Return the voxel size along the axes of a grid.

    Args:
        affine: from voxel indices to millimetres.
        shape: (x, y) of a slice, or (x, y, z) of a volume.

    Returns:
        Millimetres, one number per axis.

    >>> voxel_size_mm(np.diag([2.0, 3.0, 4.0, 1.0]), (9, 9))
    [2.0, 3.0]
    """
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return [round(float(size), 4) for size in sizes[: len(shape)]]


def minus(text: str) -> str:
    """Set a number with a minus sign, not with a hyphen.

    >>> minus("-1.5")
    '−1.5'
    """
    return text.replace("-", "\u2212")
