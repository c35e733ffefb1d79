"""Contact sheets: every channel of a layer on one page, with its number and status."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from featvis_jax.results import grids, panels, pixels
from featvis_jax.results.channels import ONE, InputChannels
from featvis_jax.results.nifti import Affine
from featvis_jax.results.panels import Panels
from featvis_jax.results.pixels import Window
from featvis_jax.results.sheet_layout import Block, Layout, choose_columns, choose_scale
from featvis_jax.results.tables import SOUND, UnitRecord

Color = tuple[int, int, int]

_HAIRLINE: Color = (206, 206, 206)
_INK: Color = (28, 30, 33)
_MUTED: Color = (110, 114, 120)
# Shape and word carry the status; the colour only helps the eye to find it again.
_MARKS: dict[str, tuple[str, Color]] = {
    "weak": ("\u25d4", (150, 52, 96)),
    "unsettled": ("\u25d0", (120, 92, 16)),
    "noise": ("\u25a6", (104, 70, 140)),
    "uniform": ("\u25a1", (36, 92, 150)),
    "unmoved": ("\u25c7", (92, 98, 106)),
    "dead": ("\u25cb", (92, 98, 106)),
    "diverged": ("\u25b3", (176, 72, 28)),
}
_SIDES = {"L": "left", "R": "right", "A": "anterior", "P": "posterior", "S": "superior"}
_SIDES["I"] = "inferior"


def tile_title(record: UnitRecord, *, variants: int, name: str | None = None) -> str:
    """Name an image under its tile.

    Args:
      record: Of the image.
      variants: Images that a unit of the run has.
      name: What the unit is called; by default its number.

    Example:
      >>> row = UnitRecord("conv1", 3, "alive", 0.1, 2.5, 0.0, 0.0, 1.0, 256, 1.5, 0, variant=2)
      >>> tile_title(row, variants=1), tile_title(row, variants=4)
      ('3', '3 (2)')
      >>> from dataclasses import replace
      >>> tile_title(replace(row, strength=1.25), variants=1)
      '3  1.2\u00d7'
    """
    name = str(record.channel) if name is None else name
    name = name if variants == 1 else f"{name} ({record.variant})"
    return name if record.strength is None else f"{name}  {times(record.strength)}"


def times(strength: float) -> str:
    """Write a strength for people.

    Args:
      strength: A share of the reference.

    Example:
      >>> times(1.3049), times(-0.05), times(136.4)
      ('1.3\u00d7', '\u22120.05\u00d7', '136\u00d7')
    """
    digits = ".2g" if abs(strength) < 10 else ".0f"
    return grids.minus(f"{strength + 0.0:{digits}}\u00d7")


class Look(NamedTuple):
    """How images are drawn on a page.

    Example:
      >>> Look(window=(0.0, 1.0)).columns is None
      True
    """

    window: Literal["shared", "own"] | Window = "shared"
    """"shared" takes the smallest and the largest intensity on the page (diverged images do not
    count), "own" those of each image, a pair is used as it is: intensities, or shares where the
    channels have ranges of their own"""
    columns: int | None = None
    """tiles in a row; None for a page that is neither a ribbon nor a tower"""
    scale: int | None = None
    """side of a voxel in pixels; None for as large as a screen allows"""


class Voxels(NamedTuple):
    """What is known of the voxels of images.

    Example:
      >>> Voxels(unit="z-score").affine is None
      True
    """

    affine: Affine | None = None
    """of their grid, which tells what is up and what is left; None if nobody knows"""
    channels: InputChannels = ONE
    """what their channels are"""
    unit: str | None = None
    """what the intensities are; None if nothing is to be said of it"""


_LOOK, _UNKNOWN = Look(), Voxels()


def contact_sheet(
    images: Iterable[Float[np.ndarray, "*spatial channels"]],
    *,
    titles: Sequence[str],
    statuses: Sequence[str],
    title: str,
    subtitle: str | None = None,
    groups: Sequence[object] | None = None,
    look: Look = _LOOK,
    voxels: Voxels = _UNKNOWN,
) -> bytes:
    """Draw many images on one page, with a number and a status under each.

    The images are read one after the other and only the planes that are shown are kept, so a
    generator of volumes needs the memory of one volume.

    Args:
      images: At least one, all of one shape, each (x, y, channels) or (x, y, z, channels).
      titles: One per image, such as the number of the channel.
      statuses: One per image; "driven" and "alive" stay unmarked, others are named and drawn with
        a symbol.
      title: Heading of the page.
      subtitle: Line under the heading; by default the number of channels. The counts of the
        statuses that are marked follow it.
      groups: One value per image; neighbours with the same one, such as the variants of a
        channel, stay together. By default each image stands alone.
      look: How they are drawn.
      voxels: What is known of them.

    Returns:
      The bytes of a .png file; equal arguments give equal bytes.

    Raises:
      ValueError: If there are no images, their shapes differ, or the number of titles or
        statuses is another.

    Example:
      >>> sheet = contact_sheet(
      ...     [np.eye(8)[..., None]] * 3, titles="012", statuses=["alive"] * 3, title="conv1"
      ... )
      >>> sheet[1:4]
      b'PNG'
    """
    channels = voxels.channels
    planes = [panels.planes(image, channels) for image in images]
    if not planes or not len(planes) == len(titles) == len(statuses):
        raise ValueError(
            f"got {len(planes)} images, {len(titles)} titles and {len(statuses)} statuses; "
            "expected at least one image, and one title and one status for each."
        )
    if len({tuple(plane.shape for part in one for plane in part) for one in planes}) > 1:
        shape = planes[0][0][0].shape
        raise ValueError(f"images on one page must have one shape; got {shape} first.")
    windows = _windows(planes, statuses, look.window)
    smallest = panels.arranged(planes[0], channels, window=(0.0, 1.0))
    unit_height, unit_width = smallest.pixels.shape[:2]
    sizes = _group_sizes(groups, len(planes))
    block = Block.fit(max(sizes), unit_width + 16, unit_height + 38)
    columns = look.columns
    if columns is None:
        size = block.columns * (unit_width + 16), block.rows * (unit_height + 38)
        columns = block.columns * choose_columns(len(sizes), *size)
    if columns < 1:
        raise ValueError(f"columns must be at least 1; got {columns}.")
    scale = look.scale
    if scale is None:
        scale = choose_scale(planes[0], unit_width, unit_height, columns)
    tiles = [
        panels.arranged(one, channels, window=pixels.opened(each), scale=scale)
        for one, each in zip(planes, windows, strict=True)
    ]
    layout = Layout.fit(tiles[0], len(sizes), block, columns, own=look.window == "own")
    places = [(group, place) for group, size in enumerate(sizes) for place in range(size)]
    page = Pillow.new("RGB", (layout.page_width, layout.page_height), (pixels.PAPER,) * 3)
    draw = ImageDraw.Draw(page)
    counts = Counter(status for status in statuses if status not in SOUND)
    subtitle = subtitle or f"{len(tiles)} channel{'s' if len(tiles) > 1 else ''}"
    _draw_heading(draw, layout, title, subtitle, counts)
    for index, tile in enumerate(tiles):
        corner = layout.corner(*places[index])
        _draw_tile(draw, page, tile, corner)
        own = told_window(channels, windows[index])
        _draw_caption(draw, layout, corner, titles[index], statuses[index], own)
    shared = None if look.window == "own" else channels.told_windows(pixels.opened(windows[0]))
    notes = _notes(voxels.affine, len(planes[0][0]), channels)
    _draw_footer(draw, page, layout, shared, notes, unit=channels.told_unit(voxels.unit))
    return pixels.encode_png(np.asarray(page))


def _group_sizes(groups: Sequence[object] | None, count: int) -> list[int]:
    """Return how many images follow each other in each group."""
    if groups is not None and len(groups) != count:
        raise ValueError(f"got {count} images and {len(groups)} groups; expected one each.")
    return [len(list(same)) for _, same in groupby(range(count) if groups is None else groups)]


def _windows(
    planes: Sequence[Sequence[panels.Planes]],
    statuses: Sequence[str],
    window: Literal["shared", "own"] | Window,
) -> list[Window]:
    """Return the window of every tile, closed where there is one intensity only."""
    if window == "own":
        return [pixels.value_range([plane for part in one for plane in part]) for one in planes]
    if window == "shared":
        sound = [one for one, status in zip(planes, statuses, strict=True) if status != "diverged"]
        shown = [plane for one in sound for part in one for plane in part]
        return [pixels.value_range(shown)] * len(planes)
    if isinstance(window, str) or not window[0] < window[1]:
        raise ValueError(f'window must be "shared", "own" or a rising pair; got {window!r}.')
    return [(float(window[0]), float(window[1]))] * len(planes)


def told_window(channels: InputChannels, window: Window) -> str:
    """Write a window for people, of each contrast in its own intensities.

    Args:
      channels: What is seen.
      window: Lowest and highest intensity, or share of the channels' ranges.

    Example:
      >>> told_window(ONE, (0.0, 0.25)), told_window(ONE, (0.5, 0.5))
      ('0 to 0.25', '0.5 throughout')
      >>> told_window(InputChannels(("T1w", "CT"), ranges=((0, 1), (-1000, 3000))), (0, 1))
      'T1w 0 to 1, CT -1000 to 3000'
    """
    words = []
    for name, ends in channels.told_windows(window):
        low, high = map(_intensity, ends)
        words.append(f"{name} {low} to {high}" if low != high else f"{name} {low} throughout")
    return ", ".join(words).strip()


def _intensity(value: float) -> str:
    return f"{value + 0.0:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return a text in printable characters that is no wider than given, ended by an ellipsis."""
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "\u2026") > width:
        text = text[:-1]
    return text + "\u2026"


def _draw_heading(
    draw: ImageDraw.ImageDraw, layout: Layout, title: str, subtitle: str, counts: Counter[str]
) -> None:
    """Write the heading and, under it, how many channels there are of each kind."""
    room, x = float(layout.page_width - 2 * layout.margin), float(layout.margin)
    large, plain = panels.font(round(1.7 * layout.text), bold=True), panels.font(layout.text)
    draw.text((x, 3 * layout.text), _shorten(title, large, room), _INK, large, anchor="ls")
    baseline = round(4.8 * layout.text)
    draw.text((x, baseline), subtitle, _MUTED, plain, anchor="ls")
    x += plain.getlength(subtitle)
    for status in sorted(counts):
        symbol, color = _MARKS.get(status, ("\u00b7", _MUTED))
        words = f"{symbol} {counts[status]} {status}"
        draw.text((x + 1.6 * layout.text, baseline), words, color, plain, anchor="ls")
        x += 1.6 * layout.text + plain.getlength(words)


def _draw_tile(
    draw: ImageDraw.ImageDraw, page: Pillow.Image, tile: Panels, corner: tuple[int, int]
) -> None:
    """Put a tile on the page, with a line around each of its pictures and what they are called."""
    left, top = corner
    page.paste(Pillow.fromarray(tile.pixels), corner)
    for x, y, width, height in tile.frames:
        start = left + x - 1, top + y - 1
        draw.rectangle((*start, left + x + width, top + y + height), outline=_HAIRLINE)
    panels.write_labels(draw, tile, corner, _MUTED)


def _draw_caption(
    draw: ImageDraw.ImageDraw,
    layout: Layout,
    corner: tuple[int, int],
    title: str,
    status: str,
    window: str,
) -> None:
    """Write the number of a channel and its status under its tile."""
    left, baseline = corner[0], corner[1] + layout.tile[1] + round(1.35 * layout.text)
    room = float(layout.room)
    font = panels.font(layout.text)
    if status not in SOUND:
        symbol, color = _MARKS.get(status, ("\u00b7", _MUTED))
        words = f"{symbol} {status}"
        if font.getlength(title) + font.getlength(words) + layout.text > room:
            words = symbol
        draw.text((left + room, baseline), words, color, font, anchor="rs")
        room -= font.getlength(words) + layout.text / 2
    draw.text((left, baseline), _shorten(title, font, room), _INK, font, anchor="ls")
    if layout.cell[1] - layout.tile[1] > 3.5 * layout.text:
        small = panels.font(max(11, layout.text - 2))
        words = _shorten(window, small, float(layout.room))
        draw.text((left, baseline + 1.3 * layout.text), words, _MUTED, small, anchor="ls")


def _draw_footer(
    draw: ImageDraw.ImageDraw,
    page: Pillow.Image,
    layout: Layout,
    windows: list[tuple[str, Window]] | None,
    notes: list[str],
    *,
    unit: str | None,
) -> None:
    """Draw the colour bar of shared windows, and the longest note that fits."""
    font, text = panels.font(max(11, layout.text - 1)), layout.text
    top, x = layout.page_height - 3 * text, float(layout.margin)
    baseline = top + round(0.95 * text)
    if windows is None:
        words = "each tile in its own window"
        draw.text((x, baseline), words, _MUTED, font, anchor="ls")
        x += font.getlength(words)
    else:
        x = _draw_bars(draw, page, layout, windows, (x, baseline))
    if unit is not None:
        # Below, so that it takes no room from the sides of the body.
        below = baseline + round(1.3 * text)
        draw.text((layout.margin, below), unit, _MUTED, font, anchor="ls")
    right = layout.page_width - layout.margin
    fitting = [words for words in notes if x + 2 * text + font.getlength(words) <= right]
    if fitting:
        draw.text((right, baseline), fitting[0], _MUTED, font, anchor="rs")


def _draw_bars(
    draw: ImageDraw.ImageDraw,
    page: Pillow.Image,
    layout: Layout,
    windows: list[tuple[str, Window]],
    corner: tuple[float, int],
) -> float:
    """Draw a colour bar for each window, as many as have room, and return where the last ends."""
    font, text = panels.font(max(11, layout.text - 1)), layout.text
    x, baseline = corner
    top, room = baseline - round(0.95 * text), layout.page_width - layout.margin
    width, height = (9 if len(windows) == 1 else 4) * text, text
    words = "intensity  "
    for name, window in windows:
        low, high = map(_intensity, window)
        words += f"{name}  {low}" if name else low
        needed = font.getlength(words) + width + 1.2 * text + font.getlength(high)
        if x > corner[0] and x + needed > room:
            draw.text((x, baseline), " \u2026", _MUTED, font, anchor="ls")
            return x + font.getlength(" \u2026")
        draw.text((x, baseline), words, _MUTED, font, anchor="ls")
        x += font.getlength(words) + 0.6 * text
        bar = np.tile(np.rint(np.linspace(0, 255, width)).astype(np.uint8), (height, 1))
        page.paste(Pillow.fromarray(bar), (round(x), top))
        frame = (round(x) - 1, top - 1, round(x) + width, top + height)
        draw.rectangle(frame, outline=_HAIRLINE)
        x += width + 0.6 * text
        draw.text((x, baseline), high, _MUTED, font, anchor="ls")
        x += font.getlength(high)
        words = "    "
    return x


def _notes(affine: Affine | None, plane_count: int, channels: InputChannels) -> list[str]:
    """Say which way up the planes of every tile are, the longest words first."""
    shape = (1,) * (2 if plane_count == 1 else 3)
    planes = grids.planes(affine, shape, is_picture=channels.is_colour)
    if affine is None:
        if plane_count == 1:
            return [planes[0].ways]
        each = ", ".join(f"{plane.right} to the right and {plane.top} up" for plane in planes)
        return [f"middle planes: {each}", "middle planes: " + ", ".join(p.name for p in planes)]
    if plane_count == 1:
        return [f"{_SIDES[planes[0].top]} up, {_SIDES[planes[0].left]} on the left"]
    each = [f"{p.name} ({_SIDES[p.top]} up, {_SIDES[p.left]} on the left)" for p in planes]
    short = ", ".join(f"{p.name} ({p.top} up, {p.left} left)" for p in planes)
    return [f"middle planes: {', '.join(each)}", f"middle planes: {short}", short]
