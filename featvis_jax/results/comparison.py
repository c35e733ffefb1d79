"""A figure for print: rows are channels, columns are ways to make their images."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure

from featvis_jax.results.channels import ONE, InputChannels
from featvis_jax.results.panels import picture

_INK, _MUTED = "#1c1e21", "#6e7278"
_TILE_INCHES = 1.15
_GAP = 0.06
_LINE_INCHES = 0.13
_LABEL_POINTS = 7.5


def comparison(
    images: Sequence[Sequence[Float[np.ndarray, "*spatial channels"]]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    window: tuple[float, float],
    title: str,
    max_columns: int = 9,
    channels: InputChannels = ONE,
) -> dict[str, bytes]:
    """Draw images side by side under one shared window.

    Args:
      images: One sequence of images per row.
      rows: A label for every row.
      columns: A label for every column.
      window: Intensities that are black and white; shares where the channels have ranges of their
        own.
      title: Above everything.
      max_columns: More columns than this continue in a further block below; of several contrasts
        side by side fewer.
      channels: What the channels of the images are.

    Returns:
      The figure as ``"png"`` and ``"pdf"``, deterministic for the same images.

    Raises:
      ValueError: Images and labels do not fit.

    Example:
      >>> tile = np.zeros((20, 30, 1))
      >>> figure = comparison([[tile, tile]], rows=["3"], columns=["none", "blur"],
      ...                     window=(0.0, 1.0), title="conv5")
      >>> sorted(figure), figure["pdf"][:4]
      (['pdf', 'png'], b'%PDF')
    """
    if len(images) != len(rows) or any(len(row) != len(columns) for row in images):
        raise ValueError(
            f"There are images for {[len(row) for row in images]} columns in {len(images)} rows; "
            f"expected {len(columns)} columns in {len(rows)} rows."
        )
    tiles = [[picture(image, channels=channels, window=window) for image in row] for row in images]
    # Contrasts of slices lie side by side, and want as much room each.
    abreast = len(channels.labels) if images[0][0].ndim == 3 else 1
    most = max(1, max_columns // abreast)
    blocks = [
        range(start, min(start + most, len(columns))) for start in range(0, len(columns), most)
    ]
    height, width = tiles[0][0].shape[:2]
    inches = _TILE_INCHES * abreast
    tile = inches, inches * height / width
    per_block = len(rows) * (tile[1] + _GAP) + 0.42
    windows = channels.told_windows(window)
    heading = 0.5 + (_LINE_INCHES * len(windows) if len(windows) > 1 else 0)
    size = (len(blocks[0]) * (tile[0] + _GAP) + 0.75, len(blocks) * per_block + heading)
    with rc_context({"font.family": "DejaVu Sans", "pdf.fonttype": 42}):
        figure = Figure(size, facecolor="white")
        _write_heading(figure, title, windows)
        for number, block in enumerate(blocks):
            top = size[1] - heading - number * per_block - 0.36
            shown = [[row[column] for column in block] for row in tiles]
            _draw_block(figure, shown, rows, [columns[column] for column in block], top, tile)
        return {
            "png": _bytes(figure, "png", dpi=250),
            "pdf": _bytes(figure, "pdf", dpi=300, metadata={"CreationDate": None}),
        }


def _write_heading(
    figure: Figure, title: str, windows: Sequence[tuple[str, tuple[float, float]]]
) -> None:
    height = figure.get_size_inches()[1]
    figure.text(0.01, 1 - 0.12 / height, title, color=_INK, size=11, weight="bold", va="top")
    if len(windows) == 1:
        ((_, (low, high)),) = windows
        told = f"black {low:g}, white {high:g}"
        figure.text(0.99, 1 - 0.15 / height, told, color=_MUTED, size=7, ha="right", va="top")
        return
    # A line for each contrast, below the title.
    for number, (name, (low, high)) in enumerate(windows):
        told, y = f"{name}: black {low:g}, white {high:g}", 0.34 + number * _LINE_INCHES
        figure.text(0.01, 1 - y / height, told, color=_MUTED, size=7, va="top")


def _draw_block(
    figure: Figure,
    tiles: Sequence[Sequence[np.ndarray]],
    rows: Sequence[str],
    columns: Sequence[str],
    top: float,
    tile: tuple[float, float],
) -> None:
    """Draw rows of tiles with their labels, from a height on; all lengths are in inches."""
    across, up = figure.get_size_inches()
    width, height = tile
    for j, column in enumerate(columns):
        left = 0.7 + j * (width + _GAP)
        figure.text(
            (left + width / 2) / across,
            (top + 0.05) / up,
            column.replace("_", " "),
            size=_LABEL_POINTS,
            color=_INK,
            ha="center",
            va="bottom",
            wrap=True,
        )
        for i, row in enumerate(tiles):
            bottom = top - (i + 1) * (height + _GAP) + _GAP
            axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
            axes.imshow(row[j], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_axis_off()
    for i, label in enumerate(rows):
        middle = top - i * (height + _GAP) - height / 2
        figure.text(
            0.62 / across,
            middle / up,
            label,
            size=_LABEL_POINTS,
            color=_INK,
            ha="right",
            va="center",
        )


def _bytes(figure: Figure, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()
