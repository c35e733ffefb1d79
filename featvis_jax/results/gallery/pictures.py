"""Writing the pictures of channels: every view in the shared and in the own window."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from featvis_jax.results import grids, pixels
from featvis_jax.results.gallery import views
from featvis_jax.results.gallery.contents import Picture, Variant
from featvis_jax.results.gallery.site import Site
from featvis_jax.results.pixels import Window


class Projected(NamedTuple):
    """The projections of an image, until those of the others are known too.

    >>> from featvis_jax.results.tables import UnitRecord
    >>> row = UnitRecord("conv1", 3, "alive", 0.1, 2.5, 0.0, 0.0, 1.0, 256, 1.5, 0)
    >>> Projected(Variant(row), "pictures/conv1/0003", {}).stem
    'pictures/conv1/0003'
    """

    variant: Variant
    stem: str
    values: dict[str, Float[np.ndarray, "_ _"]]


def write_planes(
    site: Site,
    variant: Variant,
    image: Float[np.ndarray, "*spatial 1"],
    *,
    stem: str,
    planes: Sequence[grids.Plane],
    window: Window,
) -> Projected:
    """Draw the middle planes of an image, and compute its projections.

    Args:
        site: where the pictures go.
        variant: the image, as the templates see it; its pictures are added to it.
        image: shape (x, y, 1) or (x, y, z, 1).
        stem: begin of the names of the files.
        planes: of the grid.
        window: the shared one.

    Returns:
        What `write_projections` takes.
    """
    own = views.own_window(image)
    found = views.of_image(image, list(planes))
    for plane in planes:
        values = found.pop(plane.name)
        variant.pictures.append(write_picture(site, stem, plane.name, values, window, own))
    return Projected(variant, stem, found)


def write_projections(site: Site, projected: Sequence[Projected]) -> None:
    """Draw projections in the one window that holds them all.

    Largest intensities lie far up in the window of the image, so they have a window of their own.

    Args:
        site: where the pictures go.
        projected: of the images that are shown together.
    """
    sound = [each for each in projected if each.variant.record.status != "diverged"]
    values = [some for each in sound or projected for some in each.values.values()]
    shared = pixels.opened(pixels.value_range(values))
    for variant, stem, found in projected:
        for view, some in found.items():
            own = views.own_window(some)
            variant.pictures.append(write_picture(site, stem, view, some, shared, own))


def write_picture(
    site: Site,
    stem: str,
    view: str,
    values: Float[np.ndarray, "height width"],
    shared: Window,
    own: Window,
) -> Picture:
    """Draw one view in both windows.

    Args:
        site: where the pictures go.
        stem: begin of the names of the files.
        view: its name.
        values: intensities, the way up that they are shown.
        shared: intensities that are black and white in the shared window.
        own: the same for the own window.

    Returns:
        Where they are.
    """
    names = [f"{stem}-{view}-{window}.png" for window in ("shared", "own")]
    for name, window in zip(names, (shared, own), strict=True):
        site.write(name, views.draw(values, window))
    return Picture(view, names[0], names[1], shared, own)
