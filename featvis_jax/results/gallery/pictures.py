"""Writing the pictures of channels: every view in the shared and in the own window."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from featvis_jax.ranges import window_in
from featvis_jax.results import grids, pixels
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.gallery import views
from featvis_jax.results.gallery.contents import Part, Picture, Variant
from featvis_jax.results.gallery.site import Site
from featvis_jax.results.pixels import Window


class Projected(NamedTuple):
    """The projections of a part of an image, until those of the others are known too.

    Example:
      >>> Projected(Part("", ""), "pictures/conv1/0003", {}, is_sound=True).stem
      'pictures/conv1/0003'
    """

    part: Part
    stem: str
    values: dict[str, Float[np.ndarray, "_ _ ..."]]
    is_sound: bool
    """whether the window of all should hold them: not where the ascent diverged"""


def write_planes(
    site: Site,
    variant: Variant,
    image: Float[np.ndarray, "*spatial channels"],
    *,
    stem: str,
    planes: Sequence[grids.Plane],
    window: Window,
    channels: InputChannels,
) -> list[Projected]:
    """Draw the middle planes of an image, and compute its projections.

    Args:
      site: Where the pictures go.
      variant: The image, as the templates see it; its parts are added to it.
      image: Shape (x, y, channels) or (x, y, z, channels).
      stem: Begin of the names of the files.
      planes: Of the grid.
      window: The shared one; of shares where the channels have ranges of their own.
      channels: What its channels are.

    Returns:
      What `write_projections` takes, for each part.
    """
    projected = []
    parts = zip(channels.labels, channels.captions, channels.part_ranges, strict=True)
    for (name, caption, own_range), seen in zip(parts, channels.seen(image), strict=True):
        ends = window_in(own_range, pixels.value_range([seen]))
        part, own = Part(name, caption, own_range, ends), views.own_window(seen)
        variant.parts.append(part)
        beginning = f"{stem}_{name}" if name else stem
        found = views.of_image(seen, list(planes))
        for plane in planes:
            values = found.pop(plane.name)
            drawn = write_picture(site, part, beginning, plane.name, values, (window, own))
            part.pictures.append(drawn)
        is_sound = variant.record.status != "diverged"
        projected.append(Projected(part, beginning, found, is_sound))
    return projected


def write_projections(site: Site, projected: Sequence[Projected]) -> None:
    """Draw projections in the one window that holds them all.

    Largest intensities lie far up in the window of the image, so they have a window of their own.

    Args:
      site: Where the pictures go.
      projected: Of the images that are shown together.
    """
    sound = [each for each in projected if each.is_sound]
    values = [some for each in sound or projected for some in each.values.values()]
    shared = pixels.opened(pixels.value_range(values))
    for part, stem, found, _ in projected:
        for view, some in found.items():
            own = views.own_window(some)
            part.pictures.append(write_picture(site, part, stem, view, some, (shared, own)))


def write_picture(
    site: Site,
    part: Part,
    stem: str,
    view: str,
    values: Float[np.ndarray, "height width *colour"],
    windows: tuple[Window, Window],
) -> Picture:
    """Draw one view in both windows.

    Args:
      site: Where the pictures go.
      part: What it is a view of.
      stem: Begin of the names of the files.
      view: Its name.
      values: As `InputChannels.seen` has them, the way up that they are shown.
      windows: Those that are black and white in the shared window, and in its own.

    Returns:
      Where they are.
    """
    names = [f"{stem}-{view}-{window}.png" for window in ("shared", "own")]
    for name, window in zip(names, windows, strict=True):
        site.write(name, views.draw(values, window))
    shared, own = (window_in(part.own_range, window) for window in windows)
    return Picture(view, names[0], names[1], shared, own)
