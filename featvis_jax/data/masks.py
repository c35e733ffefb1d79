"""Where the brain is, and which axial slices hold enough of it."""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int
from scipy import ndimage

from featvis_jax.data.intensities import rescale

DARK = 0.1
STRIPPED_SHARE = 0.9


def brain_mask(data: Float32[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
    """Where the brain is, in a slice or a volume.

    A skull-stripped scan has a background of one value, its minimum: of the voxels darker than a
    tenth of the robust range at least 90 % have it (after `rescale`: are 0). Everything above it is
    then brain. Any other scan gets its largest connected part that is brighter than that tenth,
    with holes filled: the head, since nothing here strips a skull.

    Args:
      data: One slice or volume, any range.

    Returns:
      bool, same shape; all False for a constant image.

    Example:
      >>> brain_mask(np.array([[0, 0, 0], [0, 5, 9], [0, 0, 7]], np.float32)).astype(int)
      array([[0, 0, 0],
             [0, 1, 1],
             [0, 0, 1]])
    """
    data = np.asarray(data, np.float32)
    if data.min() == data.max():
        return np.zeros(data.shape, bool)
    scaled = rescale(data)
    bright = scaled >= DARK
    above_background = scaled > 0
    num_dark = bright.size - np.count_nonzero(bright)
    if bright.size - np.count_nonzero(above_background) >= STRIPPED_SHARE * num_dark:
        return above_background
    parts = np.empty(bright.shape, np.int32)
    ndimage.label(bright, output=parts)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(parts == sizes.argmax()))


def brain_fraction_per_slice(volume: Float32[np.ndarray, "x y z"]) -> Float64[np.ndarray, " z"]:
    """The share of each axial slice that is brain, by the mask of the whole volume.

    Args:
      volume: `(x, y, z)` in RAS.

    Returns:
      `(z,)` in [0, 1].
    """
    return brain_mask(volume).mean(axis=(0, 1), dtype=np.float64)


def usable_slices(
    brain_fraction: Float64[np.ndarray, " z"], *, minimum: float = 0.4
) -> Int[np.ndarray, " n"]:
    """The axial slices with enough brain.

    Of the 182 slices of a brain on FSL's 1 mm MNI grid, `minimum` 0.4 keeps about 109, 0.3 about
    119 and 0.2 about 129.

    Args:
      brain_fraction: `(z,)`, share of each slice that is brain.
      minimum: Share of the fullest slice's brain that a slice must have, in [0, 1].

    Returns:
      Indices, ascending.

    Raises:
      ValueError: No slice has any brain, or `minimum` is out of range.

    Example:
      >>> usable_slices(np.array([0.0, 0.1, 0.3, 0.4, 0.2, 0.0]))
      array([2, 3, 4])
    """
    if not 0 <= minimum <= 1:
        raise ValueError(f"minimum={minimum}: expected a share in [0, 1], such as 0.4")
    fraction = np.asarray(brain_fraction)
    if fraction.size == 0 or fraction.max() <= 0:
        raise ValueError(f"brain_fraction of shape {fraction.shape} has no slice with brain")
    return np.flatnonzero((fraction >= minimum * fraction.max()) & (fraction > 0))
