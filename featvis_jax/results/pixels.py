"""Grey levels: how intensities become pixels, for one image or one plane.

Pictures are grey or, of red, green and blue, in colour, and use whole pixels: a voxel is a square
of `scale` x `scale` pixels, never an interpolation, because what a channel looks for can be as fine
as one voxel. Images are shown with the second axis up (anterior, or superior in the coronal and the
sagittal plane) and the first one to the right, so that in RAS coordinates the left of the subject
is on the left. Pixels that are not a number become a checkerboard, which no window turns into an
ordinary grey.

A picture in colour lies nowhere in a body: its first axis runs down and its second to the right, as
those of photographs do.
"""

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pillow

Window = tuple[float, float]

PAPER = 250
_CHECKER_VOXELS = 8


def picture(
    image: Float[np.ndarray, "*spatial _"], *, window: Window, scale: int = 1
) -> UInt8[np.ndarray, "height width *colour"]:
    """Draw one image in grey levels, or in colour.

    Args:
      image: Shape (x, y, 1), shown as it is, or (x, y, z, 1), shown as its axial, coronal and
        sagittal middle planes side by side; or (rows, columns, 3), red, green and blue.
      window: Intensities that become black and white, the first below the second.
      scale: Side of a voxel in pixels, at least 1.

    Returns:
      Grey levels or colours; a slice gives (y * scale, x * scale).

    Raises:
      ValueError: If the shape, the window or the scale is none of the above.

    Example:
      >>> picture(np.array([[[0.0], [1.0]]]), window=(0.0, 1.0))
      array([[255],
             [  0]], dtype=uint8)
    """
    return tile(middle_planes(image), window, scale).pixels


def encode_png(pixels: UInt8[np.ndarray, "height width *color"]) -> bytes:
    """Encode grey levels or colours as a PNG; equal pixels give equal bytes.

    Args:
      pixels: uint8, shape (height, width) or (height, width, 3).

    Returns:
      The bytes of a .png file.

    Raises:
      ValueError: If the array is neither of the two.

    Example:
      >>> encode_png(np.zeros((2, 3), np.uint8))[1:4]
      b'PNG'
    """
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2:
        raise ValueError(
            f"expected uint8 pixels of shape (height, width) or (height, width, 3); got "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    buffer = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


class Tile(NamedTuple):
    """Pixels of one image, and where its planes lie in them: (x, y, width, height).

    Example:
      >>> Tile(np.zeros((4, 3), np.uint8), [(0, 0, 3, 4)]).frames
      [(0, 0, 3, 4)]
    """

    pixels: UInt8[np.ndarray, "height width *colour"]
    frames: list[tuple[int, int, int, int]]


def middle_planes(image: np.ndarray) -> list[Float[np.ndarray, "_ _ ..."]]:
    """Return the planes of an image that are shown, the way up that they are shown.

    Args:
      image: Shape (x, y, 1), (x, y, z, 1), or in colour (rows, columns, 3).

    Returns:
      The image itself, or its axial, coronal and sagittal middle planes: (height, width), in
      colour (height, width, 3).

    Raises:
      ValueError: If the shape is another.

    Example:
      >>> [plane.shape for plane in middle_planes(np.zeros((2, 3, 4, 1)))]
      [(3, 2), (4, 2), (4, 3)]
    """
    if image.ndim == 3 and image.shape[-1] == 3 and image.size:
        return [image.copy()]
    if image.ndim not in (3, 4) or image.shape[-1] != 1 or 0 in image.shape:
        raise ValueError(
            f"image has shape {image.shape}; expected (x, y, 1) or (x, y, z, 1), or in colour "
            "(rows, columns, 3)."
        )
    values = image[..., 0]
    if values.ndim == 2:
        return [np.rot90(values).copy()]
    x, y, z = (length // 2 for length in values.shape)
    return [np.rot90(plane).copy() for plane in (values[:, :, z], values[:, y, :], values[x, :, :])]


def tile(planes: Sequence[Float[np.ndarray, "_ _ ..."]], window: Window, scale: int) -> Tile:
    """Turn planes into grey levels, or colours, and put them side by side on one ground line.

    Args:
      planes: At least one, the way up that they are shown.
      window: Intensities that become black and white.
      scale: Side of a voxel in pixels, at least 1.

    Returns:
      The pixels and the place of every plane.

    Raises:
      ValueError: If the window or the scale is none.

    Example:
      >>> tile([np.zeros((3, 2)), np.zeros((4, 2))], (0.0, 1.0), 1).frames
      [(0, 1, 2, 3), (8, 0, 2, 4)]
    """
    if scale < 1 or int(scale) != scale:
        raise ValueError(f"scale must be a whole number of pixels, at least 1; got {scale}.")
    greys = [grey_levels(plane, window).repeat(scale, 0).repeat(scale, 1) for plane in planes]
    gap = 6 if len(greys) > 1 else 0
    height = max(grey.shape[0] for grey in greys)
    width = sum(grey.shape[1] for grey in greys) + gap * (len(greys) - 1)
    pixels = np.full((height, width, *greys[0].shape[2:]), PAPER, np.uint8)
    frames, x = [], 0
    for grey in greys:
        y = height - grey.shape[0]
        pixels[y:, x : x + grey.shape[1]] = grey
        frames.append((x, y, grey.shape[1], grey.shape[0]))
        x += grey.shape[1] + gap
    return Tile(pixels, frames)


def grey_levels(
    values: Float[np.ndarray, "height width *colour"], window: Window
) -> UInt8[np.ndarray, "height width *colour"]:
    """Map a window of intensities to grey levels, and what is not a number to a checkerboard.

    Args:
      values: Intensities; of colour one of each channel.
      window: Those that become black and white, the first below the second.

    Returns:
      Grey levels, one per value.

    Raises:
      ValueError: If the window is none.

    Example:
      >>> grey_levels(np.array([[-1.0, 0.0, 0.5, 2.0]]), (0.0, 1.0))
      array([[  0,   0, 128, 255]], dtype=uint8)
    """
    low, high = window
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"window must be two finite intensities in rising order; got {window}.")
    finite = np.isfinite(values)
    share = (np.where(finite, values, low).astype(np.float64) - low) / (high - low)
    rows, columns, *_ = (index // _CHECKER_VOXELS for index in np.indices(values.shape))
    checkerboard = np.where((rows + columns) % 2, 225, 150)
    return np.where(finite, np.rint(share.clip(0, 1) * 255), checkerboard).astype(np.uint8)


def value_range(planes: Sequence[Float[np.ndarray, "..."]]) -> Window:
    """Return the smallest and the largest finite intensity of some planes.

    Args:
      planes: Of any size.

    Returns:
      The range, (0, 1) if nothing is finite.

    Example:
      >>> value_range([np.array([[0.25, np.nan]]), np.array([[0.75]])])
      (0.25, 0.75)
    """
    values = [plane[np.isfinite(plane)] for plane in planes]
    lows = [float(some.min()) for some in values if some.size]
    highs = [float(some.max()) for some in values if some.size]
    return (min(lows), max(highs)) if lows else (0.0, 1.0)


def opened(window: Window) -> Window:
    """Put a single intensity in the middle of a window, so that it is drawn as a middle grey.

    Args:
      window: A range, perhaps of width 0.

    Returns:
      A range that can be drawn; a wide one unchanged.

    Example:
      >>> opened((0.25, 0.25)), opened((0.0, 0.5))
      ((-0.25, 0.75), (0.0, 0.5))
    """
    low, high = window
    return (low, high) if high - low > 1e-6 * max(1.0, abs(low)) else (low - 0.5, low + 0.5)
