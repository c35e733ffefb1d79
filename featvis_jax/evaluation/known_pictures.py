"""Pictures whose content is known: perfect ones of a shape, and wrong ones of many kinds.

A grade is worth what it says of these. Each shows a few figures of one kind on an even, sloping or
cloudy background, darker, brighter or both, with sharp or soft edges, with and without grain; no
classifier has seen any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from featvis_jax.data.shapes import Shape
from featvis_jax.evaluation.concepts import TEMPLATES, Template, template
from featvis_jax.evaluation.figures import of_template, overlap

# Figures of one picture, at most; fewer where there is no room.
_FIGURES = 6
_TRIES = 60
# Centres of two figures are so many of their mean sizes apart, along some axis.
_APART = 1.5
# A figure that overlaps a shape this far may pass for it, and is no wrong one.
NEAR = 0.85


def _from(coordinates: np.ndarray, center: np.ndarray, size: float) -> np.ndarray:
    return (coordinates - np.reshape(center, (-1, *[1] * (coordinates.ndim - 1)))) / size


def _box(*sides: float) -> Shape:
    """A box with these sides; the last one is that of all further axes."""

    def box(coordinates: np.ndarray, center: np.ndarray, size: float) -> np.ndarray:
        u = np.abs(_from(coordinates, center, size))
        return (
            np.all([v < sides[min(i, len(sides) - 1)] / 2 for i, v in enumerate(u)], axis=0) * 1.0
        )

    return box


def _either(*shapes: Shape) -> Shape:
    def either(coordinates: np.ndarray, center: np.ndarray, size: float) -> np.ndarray:
        return np.maximum.reduce([shape(coordinates, center, size) for shape in shapes])

    return either


def _beside(shape: Shape, *shift: float) -> Shape:
    """A shape that is moved by so many sizes along the first axes."""

    def beside(coordinates: np.ndarray, center: np.ndarray, size: float) -> np.ndarray:
        moved = np.array(center, float)
        moved[: len(shift)] += size * np.array(shift)
        return shape(coordinates, moved, size)

    return beside


def _ball(*radii: float, inner: float = 0.0, power: float = 2.0) -> Shape:
    def ball(coordinates: np.ndarray, center: np.ndarray, size: float) -> np.ndarray:
        u = np.abs(_from(coordinates, center, size))
        scaled = [v / radii[min(i, len(radii) - 1)] for i, v in enumerate(u)]
        norm = sum(v**power for v in scaled)
        return ((norm < 1) & (norm >= inner**power)) * 1.0

    return ball


def _wedge(coordinates: np.ndarray, center: np.ndarray, size: float) -> np.ndarray:
    """A triangle; in volumes a pyramid."""
    u = _from(coordinates, center, size)
    return ((u[0] < 0.5) & (np.abs(u[1:]).max(axis=0) < 0.3 + 0.6 * u[0])) * 1.0


PLUS = _either(_box(1.0, 0.33), _box(0.33, 1.0, 0.33))
"""A cross of two strokes; in volumes they cross in a plane."""

KINDS: Mapping[str, Shape] = MappingProxyType(
    {
        "rectangle": _box(1.4, 0.72),
        "plus": PLUS,
        "L": _either(_beside(_box(0.3, 1.0), 0.35), _beside(_box(1.0, 0.3), 0.0, -0.35)),
        "T": _either(_beside(_box(0.3, 1.0), -0.35), _box(1.0, 0.3)),
        "two rectangles": _either(
            _beside(_box(0.9, 0.35), 0, 0.35), _beside(_box(0.9, 0.35), 0, -0.35)
        ),
        "triangle": _wedge,
        "diamond": _ball(0.7, power=1.0),
        "ellipse": _ball(0.8, 0.5),
        "ring": _ball(0.7, inner=0.6),
    }
)
"""Figures of wrong pictures by name, in slices and in volumes."""


def polyomino(rng: np.random.Generator, rank: int) -> Template:
    """Some cells of a grid of four along an axis, of which more than one side is left open."""
    filled = rng.random((4,) * rank) < 0.5

    def draw(offsets: np.ndarray, size: float) -> np.ndarray:
        place = np.floor(offsets / (size / 3) + 2).astype(int)
        within = ((place >= 0) & (place < 4)).all(axis=0)
        return filled[tuple(np.clip(place, 0, 3))] & within

    return draw


def cluster(rng: np.random.Generator, rank: int) -> Template:
    """Six small boxes at random."""
    centers, sides = rng.uniform(-0.5, 0.5, (6, rank)), rng.uniform(0.1, 0.2, 6)

    def draw(offsets: np.ndarray, size: float) -> np.ndarray:
        found = np.zeros(offsets.shape[1:], bool)
        for center, side in zip(centers, sides, strict=True):
            away = np.abs(offsets / size - center.reshape(-1, *[1] * rank))
            found |= away.max(axis=0) < side
        return found

    return draw


def blob(rng: np.random.Generator, rank: int) -> Template:
    """Where a smooth noise is high, within a ball."""
    noise = ndimage.gaussian_filter(rng.standard_normal((24,) * rank), 2.2)
    noise /= noise.std()

    def draw(offsets: np.ndarray, size: float) -> np.ndarray:
        found = ndimage.map_coordinates(noise, offsets / size * 12 + 11.5, order=1, mode="nearest")
        return (found > -0.2) & (np.sqrt((offsets**2).sum(axis=0)) < 0.75 * size)

    return draw


RANDOM: Mapping[str, Callable[[np.random.Generator, int], Template]] = MappingProxyType(
    {"polyomino": polyomino, "cluster": cluster, "blob": blob}
)
"""Figures of which every one is another."""


def wrong_kinds(
    shape: Template, rank: int
) -> dict[str, Callable[[np.random.Generator, int], Template]]:
    """The kinds of figures that are not a shape; those that nearly are it are left out.

    Args:
      shape: The shape.
      rank: 2 or 3.
    """
    own = of_template(shape, rank)
    fixed = {**{name: template(kind) for name, kind in KINDS.items()}, **TEMPLATES}
    found: dict[str, Callable[[np.random.Generator, int], Template]] = {
        name: lambda rng, rank, kind=kind: kind
        for name, kind in fixed.items()
        if overlap(of_template(kind, rank), own) < NEAR
    }
    return {**found, **RANDOM}


def known_picture(
    rng: np.random.Generator,
    draw: Callable[[np.random.Generator, int], Template],
    shape: tuple[int, ...],
    sizes: tuple[float, float],
    *,
    intensity_range: tuple[float, float] = (0.0, 1.0),
) -> Float[np.ndarray, "*spatial 1"]:
    """A picture of a few figures of one kind.

    Args:
      rng: Where everything comes from.
      draw: Gives a figure.
      shape: Of the picture, without a channel.
      sizes: Smallest and largest size in voxels: the side of a square of a figure's area.
      intensity_range: Of the picture.
    """
    rank = len(shape)
    grid = np.indices(shape, dtype=np.float64)
    image = 0.5 + _background(rng, grid)
    sign = rng.choice((-1, 1, 0))
    contrast, edge, grain = rng.uniform(0.2, 0.4), rng.uniform(0, 0.12), rng.uniform(0, 0.05)
    soft, grainy = rng.integers(2), rng.integers(2)
    placed: list[tuple[np.ndarray, float]] = []
    for _ in range(_TRIES):
        size = rng.uniform(*sizes)
        room = np.minimum(0.9 * size, np.array(shape) / 2 - 1)
        center = rng.uniform(room, np.array(shape) - 1 - room)
        if any(np.abs(center - c).max() < _APART * (size + s) / 2 for c, s in placed):
            continue
        placed.append((center, size))
        mask = np.asarray(draw(rng, rank)(grid - center.reshape(-1, *[1] * rank), size), float)
        mask = ndimage.gaussian_filter(mask, edge * size) if soft else mask
        level = 0.5 + contrast * (sign or rng.choice((-1, 1)))
        image = image * (1 - mask) + level * mask
        if len(placed) == _FIGURES:
            break
    image = image + grainy * grain * rng.standard_normal(shape)
    low, high = intensity_range
    return (low + (high - low) * np.clip(image, 0, 1))[..., None].astype(np.float32)


def _background(rng: np.random.Generator, grid: np.ndarray) -> np.ndarray:
    """Nothing, a slope, or clouds."""
    kind, shape = int(rng.integers(3)), grid.shape[1:]
    if kind == 0:
        return np.zeros(shape)
    if kind == 1:
        unit = grid / np.reshape(shape, (-1, *[1] * len(shape))) - 0.5
        return np.tensordot(rng.uniform(-0.2, 0.2, len(shape)), unit, 1)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(1.5, 6))
    return 0.04 * noise / noise.std()
