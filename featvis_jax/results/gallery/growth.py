"""What grew and what shrank of a scan, in colour on what became of it.

Red has grown, blue has shrunk, and grey has stayed: per cent of the volume, or of the area of a
slice, at each voxel of the deformed scan. Both ends are equally far from no change and equally
dark, so that no side looks larger than it is; how much of the colour lies over the scan says how
much.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from featvis_jax.results import grids, pixels
from featvis_jax.results.gallery.site import Site
from featvis_jax.results.nifti import Affine
from featvis_jax.results.pixels import Window

_GROWN, _SHRUNK = (178.0, 24.0, 43.0), (33.0, 102.0, 172.0)
_KINDS = {
    "logjac": ("What grew and what shrank", "volume", "smaller", "larger"),
    "logbright": ("What became brighter and darker", "brightness", "darker", "brighter"),
}


class Change(NamedTuple):
    """Pictures of a change, as the templates see it.

    Example:
      >>> pictures = ("scan.png", "changed.png", "map.png")
      >>> Change("What grew", "volume", "smaller", "larger", *pictures, most=20.0, place="").map
      'map.png'
    """

    title: str
    what: str
    less: str
    more: str
    scan: str
    changed: str
    map: str
    most: float
    """per cent at both ends of the colours"""
    place: str
    """where the slices lie: at the largest change"""


def changes(
    site: Site,
    image: Float[np.ndarray, "*spatial channels"],
    maps: Mapping[str, Float[np.ndarray, "*spatial components"]],
    *,
    stem: str,
    affine: Affine | None,
    window: Window,
) -> list[Change]:
    """Draw what changed of a scan, if anything did.

    Args:
      site: Where the pictures go.
      image: What became of the scan, (x, y, channels) or (x, y, z, channels); the first channel is
        shown.
      maps: What there is beside it (`featvis_jax.results.view.RunView.maps`).
      stem: Begin of the names of the files.
      affine: Of the grid.
      window: Intensities that are black and white.
    """
    found = []
    for name, (title, what, less, more) in _KINDS.items():
        if name not in maps or "scan" not in maps:
            continue
        if name == "logjac" and image.ndim == 3:
            what = "area"
        percent = 100 * np.expm1(maps[name][..., 0].astype(np.float64))
        peak = np.unravel_index(np.argmax(np.abs(percent)), percent.shape)
        index, most = tuple(map(int, peak)), rounded(float(np.abs(percent).max()))
        ground = _beside(_planes(image[..., 0], index), window)
        shares = _beside_values(_planes(percent / most, index))
        pictures = {
            f"{stem}-{name}-scan.png": _beside(_planes(maps["scan"][..., 0], index), window),
            f"{stem}-{name}-changed.png": ground,
            f"{stem}-{name}-map.png": coloured(ground, shares),
        }
        for path, drawn in pictures.items():
            site.write(path, pixels.encode_png(drawn))
        scan, changed, colours = pictures
        place = ""
        if percent.ndim == 3:
            normals = (2, 1, 0)
            places = [
                grids.position(affine, percent.shape, normal=axis, index=index[axis])
                for axis in normals
            ]
            place = ", ".join(places)
        found.append(Change(title, what, less, more, scan, changed, colours, most, place))
    return found


def rounded(most: float) -> float:
    """The next number of one digit and zeros, or 15 and zeros, that is as large: ends of a scale.

    Args:
      most: Above 0; nothing is taken for a hundredth.

    Example:
      >>> rounded(17.0), rounded(12.0), rounded(0.0)
      (20.0, 15.0, 0.01)
    """
    most = max(most, 0.01)
    power = 10.0 ** math.floor(math.log10(most))
    return next(
        step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= most * (1 - 1e-9)
    )


def coloured(
    ground: UInt8[np.ndarray, "height width"], shares: Float[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay colours over grey levels.

    Args:
      ground: Grey levels.
      shares: Of the end of the scale, from -1, blue, to 1, red; at 0 the grey is left.

    Example:
      >>> coloured(np.full((1, 3), 100, np.uint8), np.array([[-1.0, 0.0, 1.0]]))[0].tolist()
      [[43, 102, 161], [100, 100, 100], [166, 35, 52]]
    """
    far = np.clip(np.abs(np.nan_to_num(shares)), 0, 1)[..., None]
    end = np.where(shares[..., None] > 0, np.array(_GROWN), np.array(_SHRUNK))
    weight = 0.85 * far
    return np.rint(ground[..., None] * (1 - weight) + end * weight).astype(np.uint8)


def _planes(values: np.ndarray, index: tuple[int, ...]) -> list[np.ndarray]:
    """The slices of a volume through a voxel, the way up that they are shown; a slice itself."""
    if values.ndim == 2:
        return [np.rot90(values)]
    x, y, z = index
    return [np.rot90(plane) for plane in (values[:, :, z], values[:, y, :], values[x, :, :])]


def _beside(planes: list[np.ndarray], window: Window) -> UInt8[np.ndarray, "height width"]:
    return pixels.tile(planes, pixels.opened(window), 1).pixels


def _beside_values(planes: list[np.ndarray]) -> Float[np.ndarray, "height width"]:
    """The same places as `_beside` has, for values; 0 between them."""
    frames = pixels.tile(planes, (-1.0, 1.0), 1)
    found = np.zeros(frames.pixels.shape)
    for plane, (left, top, width, height) in zip(planes, frames.frames, strict=True):
        found[top : top + height, left : left + width] = plane
    return found
