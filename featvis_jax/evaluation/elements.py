"""The elements of a picture: where it shows something of a shape's size, and how large it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import fft

from featvis_jax.evaluation.concepts import Template, local_deviation

SIZES = tuple(2.0 ** (step / 4) for step in range(-4, 5))
"""Quarters of an octave from half the size to twice the size."""

# An element within this many sizes of a stronger one, along an axis, is a part of it.
_APART = 0.8
# A window holds so many times what a shape extends to either side.
_AROUND = 1.35


class Element(NamedTuple):
    """A place at which a picture shows something.

    Attributes:
      center: In voxels.
      size: Side of the square of the shape's area, in voxels.
      energy: What the shape takes off the picture there, of the sum of squares.
      fit: Share of what is in its window that this is, on [0, 1].
    """

    center: Float[np.ndarray, " rank"]
    size: float
    energy: float
    fit: float


def elements(
    image: Float[np.ndarray, "*spatial channels"],
    draw: Template,
    *,
    size: float,
    multiples: Sequence[float] = SIZES,
    radius: float = 1.0,
    count: int = 9,
    least: float = 0.2,
) -> list[Element]:
    r"""Where a picture shows something of a shape's size, the most first.

    With the shape t in the middle of a window W, both without their means, the best contrast of the
    shape takes the energy E = (sum_W x t)^2 / |t|^2 off the picture x. That alone would take two
    neighbours for one of twice the size, and the correlation r of the two a speck for as much as a
    lesion; places and sizes are those at which E r^2 is largest and no larger one is near.

    Args:
      image: Channels are averaged.
      draw: The shape.
      size: Nominal size in voxels.
      multiples: Sizes to search, as multiples of the nominal one.
      radius: Half the side of a window, in sizes.
      count: At most this many.
      least: Elements with less than this share of the largest energy are left out.
    """
    plane = np.asarray(image, np.float64).mean(axis=-1)
    plane = plane - plane.mean()
    padded = [fft.next_fast_len(n, True) or n for n in plane.shape]
    axes = tuple(range(plane.ndim))
    spectrum = np.fft.rfftn(plane, padded, axes)
    energies, fits, scores, sizes = [], [], [], []
    for multiple in multiples:
        side = window_side(size * multiple, radius)
        if side > min(plane.shape):
            continue
        axis = np.arange(side) - (side - 1) / 2
        mask = draw(np.stack(np.meshgrid(*[axis] * plane.ndim, indexing="ij")), size * multiple)
        mask = mask - mask.mean()
        product = spectrum * np.fft.rfftn(mask, padded, axes).conj()
        found = np.fft.irfftn(product, padded, axes)[
            tuple(slice(n - side + 1) for n in plane.shape)
        ]
        energies.append((found / np.linalg.norm(mask)) ** 2)
        fits.append(energies[-1] / local_deviation(plane, side) ** 2)
        scores.append(np.sqrt(energies[-1] * fits[-1]))
        sizes.append(size * multiple)
    chosen: list[Element] = []
    while scores and len(chosen) < count:
        best = int(np.argmax([float(each.max()) for each in scores]))
        place = np.unravel_index(int(scores[best].argmax()), scores[best].shape)
        if scores[best][place] <= 0:
            break
        center = np.array(place) + (window_side(sizes[best], radius) - 1) / 2
        energy, fit = float(energies[best][place]), float(fits[best][place])
        chosen.append(Element(center, sizes[best], energy, fit))
        for each, other in zip(scores, sizes, strict=True):
            away = _APART * (sizes[best] + other) / 2
            first = center - (window_side(other, radius) - 1) / 2
            near = [
                slice(max(math.ceil(f - away), 0), max(math.floor(f + away) + 1, 0)) for f in first
            ]
            each[tuple(near)] = -1.0
    strongest = max((each.energy for each in chosen), default=0.0)
    return [each for each in chosen if each.energy >= least * strongest]


def window_of(
    plane: Float[np.ndarray, "*spatial"], element: Element, radius: float
) -> Float[np.ndarray, "*window"]:
    """The window of an element.

    Args:
      plane: The picture.
      element: The element.
      radius: Half the side, in sizes.
    """
    side = window_side(element.size, radius)
    first = np.round(element.center - (side - 1) / 2).astype(int)
    return plane[tuple(slice(int(f), int(f) + side) for f in first)]


def window_side(size: float, radius: float) -> int:
    """Side of the window of an element, in voxels.

    Args:
      size: The element's, in voxels.
      radius: Half the side, in sizes.
    """
    side = 2 * max(round(size * radius), 2)
    # Even and odd sizes need even and odd windows to be centred on the voxel grid.
    return side + round(size) % 2


def window_radius(draw: Template, rank: int) -> float:
    """Half the side of the window that a shape with its background needs, in sizes; 1 at least.

    Args:
      draw: The shape.
      rank: 2 or 3.

    Example:
      >>> from featvis_jax.evaluation.concepts import TEMPLATES
      >>> window_radius(TEMPLATES["square"], 2)
      1.0
    """
    size = 20
    axis = np.arange(-2 * size, 2 * size) + 0.5
    offsets = np.stack(np.meshgrid(*[axis] * rank, indexing="ij"))
    inside = draw(offsets, float(size)) >= 0.5
    return max(1.0, _AROUND * float(np.abs(offsets[:, inside]).max()) / size)
