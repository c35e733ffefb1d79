"""An image of several channels as one picture: a labelled panel for each contrast, or in colour.

Of slices the panels lie side by side, of volumes one below the other, so that each plane of one
contrast stands above the same plane of the next.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from featvis_jax.results import pixels
from featvis_jax.results.channels import ONE, InputChannels
from featvis_jax.results.pixels import Window

Planes = list[Float[np.ndarray, "_ _ ..."]]

LABEL_PIXELS = 13
_INK = 28
_GAP = 6


class Panels(NamedTuple):
    """Pixels of one image, where its planes lie in them, and what is to be written where.

    Example:
      >>> Panels(np.zeros((4, 3), np.uint8), [(0, 0, 3, 4)], []).labels
      []
    """

    pixels: UInt8[np.ndarray, "height width *colour"]
    frames: list[tuple[int, int, int, int]]
    """left, top, width and height of every plane"""
    labels: list[tuple[int, int, str]]
    """left end and baseline of every label, and its text"""


def planes(image: Float[np.ndarray, "*spatial channels"], channels: InputChannels) -> list[Planes]:
    """Return the planes of an image that are shown, for each part that is seen by itself.

    Args:
      image: Shape (x, y, channels) or (x, y, z, channels).
      channels: What its channels are.

    Raises:
      ValueError: If the shape is another.

    Example:
      >>> [len(part) for part in planes(np.zeros((4, 5, 6, 2)), InputChannels(("T1w", "FLAIR")))]
      [3, 3]
    """
    return [pixels.middle_planes(part) for part in channels.seen(image)]


def arranged(
    parts: Sequence[Planes], channels: InputChannels, *, window: Window, scale: int = 1
) -> Panels:
    """Turn planes into pixels, with room for the labels, which are not drawn yet.

    Args:
      parts: What `planes` returns.
      channels: What the channels are.
      window: Intensities that become black and white.
      scale: Side of a voxel in pixels, at least 1.

    Raises:
      ValueError: If the window or the scale is none.

    Example:
      >>> parts = planes(np.zeros((40, 50, 2)), InputChannels(("T1w", "FLAIR")))
      >>> found = arranged(parts, InputChannels(("T1w", "FLAIR")), window=(0.0, 1.0))
      >>> found.pixels.shape, [(x, text) for x, _, text in found.labels]
      ((70, 86), [(0, 'T1w'), (46, 'FLAIR')])
    """
    tiles = [pixels.tile(part, window, scale) for part in parts]
    captions = channels.captions
    if captions == ("",):
        return Panels(tiles[0].pixels, tiles[0].frames, [])
    above = round(1.5 * LABEL_PIXELS)
    widths = [
        max(tile.pixels.shape[1], round(font(LABEL_PIXELS).getlength(caption)))
        for tile, caption in zip(tiles, captions, strict=True)
    ]
    height = tiles[0].pixels.shape[0] + above
    stacked = len(parts[0]) > 1
    if stacked:
        size = len(tiles) * (height + _GAP) - _GAP, max(widths)
    else:
        size = height, sum(widths) + (len(tiles) - 1) * _GAP
    whole = np.full(size, pixels.PAPER, np.uint8)
    frames, labels, left, top = [], [], 0, 0
    for tile, caption, width in zip(tiles, captions, widths, strict=True):
        down, across = tile.pixels.shape
        whole[top + above : top + above + down, left : left + across] = tile.pixels
        frames += [(left + x, top + above + y, w, h) for x, y, w, h in tile.frames]
        labels.append((left, top + round(1.1 * LABEL_PIXELS), caption))
        left, top = (0, top + height + _GAP) if stacked else (left + width + _GAP, 0)
    return Panels(whole, frames, labels)


def picture(
    image: Float[np.ndarray, "*spatial channels"],
    *,
    channels: InputChannels = ONE,
    window: Window,
    scale: int = 1,
) -> UInt8[np.ndarray, "height width *colour"]:
    """Draw an image: grey, in colour, or as labelled panels.

    Args:
      image: Shape (x, y, channels) or (x, y, z, channels).
      channels: What its channels are; one by default.
      window: Intensities that become black and white.
      scale: Side of a voxel in pixels, at least 1.

    Returns:
      Grey levels, or colours.

    Raises:
      ValueError: If the shape, the window or the scale is none.

    Example:
      >>> picture(np.zeros((4, 5, 1)), window=(0.0, 1.0)).shape
      (5, 4)
    """
    found = arranged(planes(image, channels), channels, window=window, scale=scale)
    if not found.labels:
        return found.pixels
    page = Pillow.fromarray(found.pixels)
    write_labels(ImageDraw.Draw(page), found, (0, 0), _INK)
    return np.asarray(page)


def stacked(
    rows: Sequence[UInt8[np.ndarray, "_ _ 3"]], labels: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """Put pictures of one width one below the other, each under its label.

    Args:
      rows: In colour.
      labels: One for each; a picture whose label is empty has no room for one.

    Example:
      >>> stacked([np.zeros((9, 40, 3), np.uint8)] * 2, ["T1w", "FLAIR"]).shape
      (64, 40, 3)
    """
    found = []
    for row, label in zip(rows, labels, strict=True):
        if label:
            band = Pillow.new("RGB", (row.shape[1], round(1.5 * LABEL_PIXELS)), (255,) * 3)
            where = 0, round(1.1 * LABEL_PIXELS)
            ImageDraw.Draw(band).text(where, label, (_INK,) * 3, font(LABEL_PIXELS), anchor="ls")
            found.append(np.asarray(band))
        found.append(row)
        if label:
            found.append(np.full((_GAP, row.shape[1], 3), 255, np.uint8))
    return np.concatenate(found[:-1] if len(found) > 1 else found)


def write_labels(
    draw: ImageDraw.ImageDraw,
    panels: Panels,
    corner: tuple[int, int],
    ink: int | tuple[int, int, int],
) -> None:
    """Write the labels of an image onto a page.

    Args:
      draw: What draws on the page.
      panels: What is there already.
      corner: Left and top pixel of the image on the page.
      ink: Colour of the letters.
    """
    for x, y, text in panels.labels:
        where = corner[0] + x, corner[1] + y
        draw.text(where, text, ink, font(LABEL_PIXELS), anchor="ls")


@cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load the font that comes with matplotlib: the same letters on every machine.

    Args:
      size: Height in pixels.
      bold: Whether the heavy one.
    """
    import matplotlib  # For its fonts, once there is something to write.

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
