"""Cuts of a grid about its centre, and the affine that keeps every voxel where it is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Shaped
from nibabel.affines import apply_affine, from_matvec


def crop_affine(
    affine: Float64[np.ndarray, "4 4"], start: Sequence[int]
) -> Float64[np.ndarray, "4 4"]:
    """The affine of a grid whose first voxel is voxel `start` of the old grid.

    Every kept voxel stays where it was in the world: `new @ v = old @ (v + start)`.

    Args:
      affine: `(4, 4)`, voxel indices to mm.
      start: up to three voxel indices, may be negative (padding); missing ones are 0. A slice at
        height z cut out at (x, y) has the start (x, y, z).

    Returns:
      `(4, 4)` float64.

    >>> crop_affine(np.diag([2.0, 2.0, 2.0, 1.0]), (10, 0, 5))[:3, 3]
    array([20.,  0., 10.])
    """
    if len(start) > 3:
        raise ValueError(f"start={tuple(start)}: expected at most three indices")
    affine = np.asarray(affine, np.float64)
    return from_matvec(affine[:3, :3], apply_affine(affine, [*start, 0, 0, 0][:3]))


def center_crop(
    array: Shaped[np.ndarray, "..."],
    shape: Sequence[int],
    *,
    affine: Float64[np.ndarray, "4 4"] | None = None,
) -> tuple[Shaped[np.ndarray, "..."], Float64[np.ndarray, "4 4"] | None]:
    """Crops the leading axes about their centre, and pads with zeros where the array is smaller.

    With n voxels and m wanted, `(n - m) // 2` are cut off before and the rest after; padding adds
    `(m - n) // 2` before. So cropping after padding to a size gives the array back.

    Args:
      array: spatial axes first, any further axes are kept.
      shape: wanted sizes of the leading axes.
      affine: affine of the array; at most three axes can then be cropped.

    Returns:
      The array (a view where nothing had to be padded) and its affine, None if none was given.

    >>> image, affine = center_crop(np.arange(6), (2,), affine=np.eye(4))
    >>> image, affine[:3, 3]
    (array([2, 3]), array([2., 0., 0.]))
    """
    if len(shape) > array.ndim or any(size < 1 for size in shape):
        raise ValueError(
            f"shape={tuple(shape)}: expected at most {array.ndim} sizes of at least 1 for an array "
            f"of shape {array.shape}"
        )
    starts, cuts, pads = [], [], []
    for have, want in zip(array.shape, shape, strict=False):
        before = abs(have - want) // 2
        starts.append(before if have >= want else -before)
        cuts.append(slice(before, before + want) if have >= want else slice(None))
        pads.append((0, 0) if have >= want else (before, want - have - before))
    cropped = array[tuple(cuts)]
    if any(pad != (0, 0) for pad in pads):
        cropped = np.pad(cropped, [*pads, *[(0, 0)] * (array.ndim - len(shape))])
    return cropped, None if affine is None else crop_affine(affine, starts)
