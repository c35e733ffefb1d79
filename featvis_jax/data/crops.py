"""Boxes cut out of a grid, and the affine that keeps every voxel where it is."""

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
      start: Up to three voxel indices, may be negative (padding); missing ones are 0. A slice at
        height z cut out at (x, y) has the start (x, y, z).

    Returns:
      `(4, 4)` float64.

    Example:
      >>> crop_affine(np.diag([2.0, 2.0, 2.0, 1.0]), (10, 0, 5))[:3, 3]
      array([20.,  0., 10.])
    """
    if len(start) > 3:
        raise ValueError(f"start={tuple(start)}: expected at most three indices")
    affine = np.asarray(affine, np.float64)
    return from_matvec(affine[:3, :3], apply_affine(affine, [*start, 0, 0, 0][:3]))


def cut(
    array: Shaped[np.ndarray, "..."],
    start: Sequence[int],
    shape: Sequence[int],
    *,
    outside: float = 0.0,
) -> Shaped[np.ndarray, "..."]:
    """Cut a box out of an array, padded where it reaches beyond.

    Args:
      array: Spatial axes first, any further axes are kept.
      start: The box's first voxel along the leading axes, may be negative.
      shape: Sizes of the box along them.
      outside: What it is padded with.

    Returns:
      The box; a view where nothing had to be padded.

    Example:
      >>> cut(np.arange(1, 5), (2,), (3,))
      array([3, 4, 0])
    """
    cuts, pads = [], []
    for first, want, have in zip(start, shape, array.shape, strict=False):
        low, high = min(max(first, 0), have), max(min(first + want, have), 0)
        high = max(low, high)
        cuts.append(slice(low, high))
        before = min(max(-first, 0), want)
        pads.append((before, want - before - (high - low)))
    box = array[tuple(cuts)]
    if any(pad != (0, 0) for pad in pads):
        pads += [(0, 0)] * (array.ndim - len(pads))
        box = np.pad(box, pads, constant_values=outside)
    return box


def centred_start(have: Sequence[int], want: Sequence[int]) -> tuple[int, ...]:
    """Where a box about the centre of a grid starts.

    With n voxels and m wanted, `(n - m) // 2` are cut off before and the rest after; padding adds
    `(m - n) // 2` before. So cropping after padding to a size gives the array back.

    Example:
      >>> centred_start((7, 4), (4, 7))
      (1, -1)
    """
    return tuple(
        (n - m) // 2 if n >= m else -((m - n) // 2) for n, m in zip(have, want, strict=False)
    )


def center_crop(
    array: Shaped[np.ndarray, "..."],
    shape: Sequence[int],
    *,
    affine: Float64[np.ndarray, "4 4"] | None = None,
) -> tuple[Shaped[np.ndarray, "..."], Float64[np.ndarray, "4 4"] | None]:
    """Crop the leading axes about their centre, and pad with zeros where the array is smaller.

    Args:
      array: Spatial axes first, any further axes are kept.
      shape: Wanted sizes of the leading axes; `centred_start` says where the box starts.
      affine: Affine of the array; at most three axes can then be cropped.

    Returns:
      The array (a view where nothing had to be padded) and its affine, None if none was given.

    Example:
      >>> image, affine = center_crop(np.arange(6), (2,), affine=np.eye(4))
      >>> image, affine[:3, 3]
      (array([2, 3]), array([2., 0., 0.]))
    """
    if len(shape) > array.ndim or any(size < 1 for size in shape):
        raise ValueError(
            f"shape={tuple(shape)}: expected at most {array.ndim} sizes of at least 1 for an array "
            f"of shape {array.shape}"
        )
    start = centred_start(array.shape, shape)
    return cut(array, start, shape), None if affine is None else crop_affine(affine, start)
