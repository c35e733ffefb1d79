"""Where things lie on a contact sheet: rows and columns, and the size of voxels, text and gaps."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from featvis_jax.results.panels import Panels, Planes

_WIDEST_PAGE = 2600


def choose_columns(count: int, width: int, height: int) -> int:
    """Return how many tiles of a size go in a row: full rows first, then a page of about 4 to 3.

    Args:
      count: Of the tiles.
      width: Of a tile, in pixels.
      height: Of a tile, in pixels.

    Example:
      >>> choose_columns(12, 100, 100)
      4
    """

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        shape = abs(math.log(columns * width / (rows * height) / (4 / 3)))
        empty = columns * rows - count
        return shape + (0.8 + 0.5 * empty / columns if empty else 0.0)

    return min(range(1, max(1, min(count, _WIDEST_PAGE // width)) + 1), key=cost)


def choose_scale(planes: Sequence[Planes], width: int, height: int, columns: int) -> int:
    """Return the side of a voxel in pixels: as large as a screen allows.

    Args:
      planes: Of one image.
      width: Of its tile where a voxel is one pixel.
      height: Likewise.
      columns: Tiles in a row.

    Example:
      >>> import numpy as np
      >>> choose_scale([[np.zeros((40, 50))]], 50, 40, 4)
      8
    """
    room = (_WIDEST_PAGE * 2 // 3) // (columns * width)
    parts, each = len(planes), len(planes[0])
    across, down = (parts, 1) if each == 1 else (each, parts)
    return max(1, min(room, 400 // max(width // across, height // down), 12))


class Block(NamedTuple):
    """How the images of one group lie together.

    Example:
      >>> Block.fit(20, 100, 100)
      Block(columns=5, rows=4)
    """

    columns: int
    rows: int

    @classmethod
    def fit(cls, size: int, width: int, height: int) -> "Block":
        """Put them side by side, or in rows where that would be too wide."""
        row = min(size, max(1, _WIDEST_PAGE // 2 // width))
        columns = row if row == size else choose_columns(size, width, height)
        return cls(columns, math.ceil(size / columns))


class Layout(NamedTuple):
    """Where things lie on a page, in pixels."""

    page_width: int
    page_height: int
    margin: int
    top: int
    columns: int
    block: Block
    cell: tuple[int, int]
    between: int
    tile: tuple[int, int]
    text: int
    room: int

    @classmethod
    def fit(cls, tile: Panels, count: int, block: Block, columns: int, *, own: bool) -> "Layout":
        """Size the page, and the text with it, to groups of tiles like this one."""
        columns = min(max(columns // block.columns, 1), count)
        height, width = tile.pixels.shape[:2]
        text = min(max(round(width / 11), 13), 18)
        caption = round((2.9 if own else 1.6) * text)
        gap = round((1.1 if len(tile.frames) == 1 else 2.2) * text)
        room = max(width, 6 * text)
        # Images of one group lie close, and groups apart.
        between = 0 if block == (1, 1) else round(1.6 * text)
        inner = gap if between == 0 else max(round(0.5 * text), 4)
        cell = room + inner, height + caption + round(1.1 * text)
        margin, top = 2 * text + 2, round(6.2 * text)
        width_of_all = columns * (block.columns * cell[0] + between) - between - inner
        rows = math.ceil(count / columns)
        return cls(
            page_width=max(width_of_all + 2 * margin, 38 * text),
            page_height=top + rows * (block.rows * cell[1] + between // 2) + round(4.4 * text),
            margin=margin,
            top=top,
            columns=columns,
            block=block,
            cell=cell,
            between=between,
            tile=(width, height),
            text=text,
            room=room,
        )

    def corner(self, group: int, place: int) -> tuple[int, int]:
        """Return the left and top pixel of a tile, by its group and its place in it."""
        row, column = divmod(group, self.columns)
        down, along = divmod(place, self.block.columns)
        across = self.block.columns * self.cell[0] + self.between
        below = self.block.rows * self.cell[1] + self.between // 2
        left = self.margin + column * across + along * self.cell[0]
        return left, self.top + row * below + down * self.cell[1]
