"""What grew and what shrank of a scan, in colour on what became of it.

Red has grown, blue has shrunk, and grey has stayed: per cent of the volume, or of the area of a
slice, at each voxel of the deformed scan. Both ends are equally far from no change and equally
dark, so that no side looks larger than it is; how much of the colour lies over the scan says how
much.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from featvis_jax.results import grids, pixels
from featvis_jax.results.gallery.site import Site
from featvis_jax.results.nifti import Affine
from featvis_jax.results.pixels import Window

_GROWN, _SHRUNK = (178.0, 24.0, 43.0), (33.0, 102.0, 172.0)


class Kind(NamedTuple):
    """What a map is of, in words.

    Example:
      >>> KINDS["logjac"].more
      'larger'
    """

    title: str
    what: str
    less: str
    more: str
    common: str
    """the title of what several scans have in common"""


KINDS = {
    "logjac": Kind(
        "What grew and what shrank", "volume", "smaller", "larger", "Mean growth and shrinkage"
    ),
    "logbright": Kind(
        "What became brighter and darker",
        "brightness",
        "darker",
        "brighter",
        "Mean change of brightness",
    ),
}


def kind_of(name: str, *, rank: int) -> Kind:
    """What a map is of, for slices or volumes.

    Args:
      name: Of the map, one of `KINDS`.
      rank: Number of spatial axes.

    Example:
      >>> kind_of("logjac", rank=2).what
      'area'
    """
    kind = KINDS[name]
    return kind._replace(what="area") if name == "logjac" and rank == 2 else kind


class Change(NamedTuple):
    """Pictures of a change, as the templates see it.

    Example:
      >>> pictures = ("scan.png", "changed.png", "map.png")
      >>> Change(KINDS["logjac"], *pictures, most=20.0, beyond=False, place="").map
      'map.png'
    """

    kind: Kind
    scan: str
    changed: str
    map: str
    most: float
    """per cent at both ends of the colours, at most 100"""
    beyond: bool
    """whether anything grew by more than that"""
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
    for name in KINDS:
        if name not in maps or "scan" not in maps:
            continue
        percent = 100 * np.expm1(maps[name][..., 0].astype(np.float64))
        peak = np.unravel_index(np.argmax(np.abs(percent)), percent.shape)
        index, (most, beyond) = tuple(map(int, peak)), ends(percent)
        ground = beside(planes_at(image[..., 0], index), window)
        shares = beside_values(planes_at(percent / most, index))
        pictures = {
            "scan": beside(planes_at(maps["scan"][..., 0], index), window),
            "changed": ground,
            "map": coloured(ground, shares),
        }
        drawn = [write(site, f"{stem}-{name}-{what}", each) for what, each in pictures.items()]
        place = place_of(affine, percent.shape, index)
        kind = kind_of(name, rank=percent.ndim)
        found.append(Change(kind, *drawn, most=most, beyond=beyond, place=place))
    return found


def ends(percent: Float[np.ndarray, "*spatial"]) -> tuple[float, bool]:
    """How far the colours of changes reach, and whether a change goes beyond.

    Nothing shrinks by more than all of it, so that neither side goes further than 100 %.

    Args:
      percent: The changes.

    Example:
      >>> ends(np.array([-12.0, 17.0])), ends(np.array([-60.0, 170.0]))
      ((20.0, False), (100.0, True))
    """
    largest = float(np.abs(percent).max())
    return min(rounded(largest), 100.0), largest > 100


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


def write(site: Site, stem: str, drawn: UInt8[np.ndarray, "height width *colour"]) -> str:
    """Write a picture, and return its name.

    Args:
      site: Where it goes.
      stem: Its name without the ending.
      drawn: Its pixels.
    """
    site.write(f"{stem}.png", pixels.encode_png(drawn))
    return f"{stem}.png"


def place_of(affine: Affine | None, shape: tuple[int, ...], index: tuple[int, ...]) -> str:
    """Say where the slices of a volume through a voxel lie; nothing of a slice.

    Args:
      affine: Of the grid.
      shape: Of the volume.
      index: Of the voxel.

    Example:
      >>> place_of(np.eye(4), (5, 5, 5), (1, 2, 3))
      'z = 3 mm, y = 2 mm, x = 1 mm'
    """
    if len(shape) == 2:
        return ""
    return ", ".join(
        grids.position(affine, shape, normal=axis, index=index[axis]) for axis in (2, 1, 0)
    )


def planes_at(
    values: Float[np.ndarray, "*spatial"], index: tuple[int, ...]
) -> list[Float[np.ndarray, "_ _"]]:
    """The slices of a volume through a voxel, the way up that they are shown; a slice itself.

    Args:
      values: A volume or a slice.
      index: Of the voxel.
    """
    if values.ndim == 2:
        return [np.rot90(values)]
    x, y, z = index
    return [np.rot90(plane) for plane in (values[:, :, z], values[:, y, :], values[x, :, :])]


def beside(
    planes: Sequence[Float[np.ndarray, "_ _"]], window: Window
) -> UInt8[np.ndarray, "height width"]:
    """Grey levels of slices side by side, on black as films have them.

    Args:
      planes: The slices.
      window: Intensities that are black and white.
    """
    tile = pixels.tile(list(planes), pixels.opened(window), 1)
    found = np.zeros_like(tile.pixels)
    for left, top, width, height in tile.frames:
        inside = np.s_[top : top + height, left : left + width]
        found[inside] = tile.pixels[inside]
    return found


def beside_values(
    planes: Sequence[Float[np.ndarray, "_ _"]],
) -> Float[np.ndarray, "height width"]:
    """The same places as `beside` has, for values; 0 between them.

    Args:
      planes: The slices.
    """
    frames = pixels.tile(list(planes), (-1.0, 1.0), 1)
    found = np.zeros(frames.pixels.shape)
    for plane, (left, top, width, height) in zip(planes, frames.frames, strict=True):
        found[top : top + height, left : left + width] = plane
    return found
