"""Pictures of one image: its planes, its projections and a series of slices, each in two windows.

The shared window makes channels comparable: it is the one that the run was drawn with. The own
window shows what is faint: from the 1st to the 99th percentile of the inner half of the image, so
that the border, where a convolution sees less, does not decide over the rest.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from featvis_jax.results import pixels
from featvis_jax.results.grids import Plane
from featvis_jax.results.pixels import Window

SLICES = 16
MOSAIC_COLUMNS = 8


class Mosaic(NamedTuple):
    """A series of slices on one picture, and where each of them is.

    Example:
      >>> mosaic(np.zeros((4, 5, 9, 1), np.float32), count=3).indices
      [1, 4, 7]
    """

    values: Float[np.ndarray, "height width"]
    indices: list[int]
    corners: list[tuple[int, int]]
    """left and top pixel of every slice"""


def projections(image: Float[np.ndarray, "x y z 1"]) -> list[Float[np.ndarray, "_ _"]]:
    """Return the largest intensity along each axis, in the order of `pixels.middle_planes`.

    Args:
      image: Shape (x, y, z, 1). What is not a number does not count, unless there is no other.

    Returns:
      Three pictures, the way up that they are shown.

    Example:
      >>> [projection.shape for projection in projections(np.zeros((2, 3, 4, 1)))]
      [(3, 2), (4, 2), (4, 3)]
    """
    values = np.where(np.isfinite(image[..., 0]), image[..., 0], np.nan)
    return [np.rot90(np.fmax.reduce(values, axis=axis)).copy() for axis in (2, 1, 0)]


def mosaic(image: Float[np.ndarray, "x y z 1"], *, count: int = SLICES) -> Mosaic:
    """Return slices across the third axis, evenly spaced, in rows of eight.

    The distance between them is a whole number of voxels, and as much is left at both ends.

    Args:
      image: Shape (x, y, z, 1).
      count: How many slices at most.

    Returns:
      The slices side by side, the lowest index first.

    Example:
      >>> mosaic(np.zeros((4, 5, 30, 1), np.float32)).values.shape
      (10, 32)
    """
    depth = image.shape[2]
    step = -(-depth // count)
    number = -(-depth // step)
    first = (depth - 1 - (number - 1) * step) // 2
    indices = list(range(first, depth, step))
    width, height = image.shape[:2]
    columns = min(MOSAIC_COLUMNS, len(indices))
    corners = [(width * (i % columns), height * (i // columns)) for i in range(len(indices))]
    rows = -(-len(indices) // columns)
    values = np.zeros((rows * height, columns * width), np.float32)
    for index, (left, top) in zip(indices, corners, strict=True):
        values[top : top + height, left : left + width] = np.rot90(image[:, :, index, 0])
    return Mosaic(values, indices, corners)


def own_window(values: Float[np.ndarray, "*shape"]) -> Window:
    """Return the window in which a picture or a volume shows what it has.

    Args:
      values: Intensities, with the axis of channels or without.

    Returns:
      The 1st and the 99th percentile of the inner half along every axis; of everything, if the
      inner half holds a single intensity or nothing finite.

    Example:
      >>> own_window(np.linspace(0, 1, 101))
      (0.255, 0.745)
    """
    inner = values[tuple(slice(n // 4, n - n // 4) for n in values.shape)]
    for some in (inner, values):
        finite = some[np.isfinite(some)]
        if finite.size:
            low, high = (round(float(each), 6) for each in np.percentile(finite, (1, 99)))
            if pixels.opened((low, high)) == (low, high):
                return low, high
    return pixels.opened(pixels.value_range([values.reshape(1, -1)]))


def draw(values: Float[np.ndarray, "height width *colour"], window: Window) -> bytes:
    """Draw a picture as a PNG, one pixel per voxel.

    Args:
      values: Intensities, the way up that they are shown.
      window: Those that are black and white; one of width 0 is opened.

    Returns:
      The bytes of a .png file.

    Example:
      >>> draw(np.zeros((2, 3)), (0.0, 1.0))[1:4]
      b'PNG'
    """
    return pixels.encode_png(pixels.grey_levels(values, pixels.opened(window)))


def of_image(
    image: Float[np.ndarray, "*spatial _"], planes: list[Plane]
) -> dict[str, Float[np.ndarray, "_ _ ..."]]:
    """Return every picture of an image by the name of its view, but for the mosaic.

    Args:
      image: Shape (x, y, 1), (x, y, z, 1), or in colour (rows, columns, 3).
      planes: Of its grid.

    Returns:
      The middle planes by their names, and for a volume the projections, "axial-projection" and
      so on.

    Example:
      >>> from featvis_jax.results import grids
      >>> list(of_image(np.zeros((4, 5, 1)), grids.planes(np.eye(4), (4, 5))))
      ['axial']
    """
    names = [plane.name for plane in planes]
    found = dict(zip(names, pixels.middle_planes(image), strict=True))
    if len(planes) > 1:
        named = [f"{name}-projection" for name in names]
        found |= dict(zip(named, projections(image), strict=True))
    return found
