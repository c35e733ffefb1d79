"""Figures drawn at random, and how far one is the shape that it is compared with.

A classifier that knows a few shapes gives whatever else it sees the nearest of their names. It
learns what "something else" is from figures without end: boxes, ellipsoids, polytopes, stars,
blobs, polyominoes, strokes, scattered pieces, each whole, cut or hollow, and the shape itself
stretched, turned, cut, hollow or in two. Whether one of them still is the shape is decided by how
far the two overlap at best, and by nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from featvis_jax.data.shapes import Coordinates
from featvis_jax.evaluation.concepts import Template

Inside = Callable[[np.ndarray], np.ndarray]
"""``(rank, *grid)`` coordinates to where a figure is."""

# Figures are kept as rasters of this many cells along an axis, by rank.
_CELLS = {2: 64, 3: 32}
# A shape is moved over a figure by up to so many cells, by rank.
_MOVES = {2: 20, 3: 8}
# What a raster covers to either side of the middle, in sides of the square of a figure's area.
RADIUS = 1.6
# Sizes of a shape at which it is laid over a figure, in the figure's own.
_SCALES = tuple(2.0 ** (step / 8) for step in range(-5, 6))


class Figure(NamedTuple):
    """A figure, ready to be drawn.

    Attributes:
      raster: What it covers of every cell, on [0, 1]; the side of the square (cube) of its area
        (volume) is 1, its centre of gravity in the middle.
    """

    raster: Float32[np.ndarray, "*cells"]

    def draw(self, offsets: Coordinates, size: float) -> np.ndarray:
        """The figure as a template (`featvis_jax.evaluation.concepts.Template`).

        Args:
          offsets: From its centre, in voxels.
          size: Side of the square of its area, in voxels.
        """
        cells = self.raster.shape[0]
        places = offsets * (cells / (2 * RADIUS * size)) + (cells - 1) / 2
        return ndimage.map_coordinates(self.raster, places, order=1, mode="constant")


def of_template(draw: Template, rank: int) -> Figure:
    """A shape as a figure: where it has at least half of its contrast.

    Args:
      draw: The shape.
      rank: 2 or 3.
    """
    return _figure(_inside_of(draw), rank)


def random_figure(
    rng: np.random.Generator, rank: int, shape: Template, *, related: float = 0.4
) -> Figure:
    """A figure of any kind.

    Args:
      rng: Where it comes from.
      rank: 2 or 3.
      shape: What some of the figures are derived from.
      related: Their share.
    """
    while True:
        if rng.random() < related:
            inside = _related(rng, rank, _inside_of(shape))
        else:
            inside = _kinds(rank)[int(rng.integers(len(_kinds(rank))))](rng, rank)
            chance = rng.random()
            if chance < 0.12:
                inside = _hollow(rng, rank, inside)
            elif chance < 0.24:
                inside = _cut(rng, rank, inside)
        try:
            return _figure(inside, rank)
        except ValueError:  # Nothing was left of it, or too little to fill the raster.
            continue


def overlap(figure: Figure, shape: Figure) -> float:
    """How much of a figure and a shape is common to both, where they lie over each other best.

    The shape may be moved and scaled, and is not turned.

    Args:
      figure: The figure.
      shape: The shape.

    Returns:
      Intersection over union, on [0, 1].

    Example:
      >>> from featvis_jax.evaluation.concepts import TEMPLATES
      >>> disc, square = (of_template(TEMPLATES[name], 2) for name in ("disc", "square"))
      >>> round(overlap(disc, square), 2), round(overlap(disc, disc), 2)
      (0.82, 1.0)
    """
    rank = figure.raster.ndim
    shapes, areas = _spectra(shape.raster.tobytes(), rank)
    whole = (figure.raster >= 0.5).astype(np.float32)
    axes, moves = tuple(range(-rank, 0)), _MOVES[rank]
    spectrum = np.fft.rfftn(whole, _padded(rank), axes)
    common = np.fft.irfftn(spectrum * shapes, _padded(rank), axes)
    common = np.roll(common, (moves,) * rank, axes)
    common = common[(slice(None), *[slice(2 * moves + 1)] * rank)]
    shares = common / (float(whole.sum()) + areas.reshape(-1, *[1] * rank) - common)
    return float(shares.max())


def _padded(rank: int) -> tuple[int, ...]:
    return (_CELLS[rank] + 2 * _MOVES[rank],) * rank


@functools.lru_cache(maxsize=8)
def _spectra(raster: bytes, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """A shape at all sizes: conjugate spectra and areas."""
    cells = _CELLS[rank]
    shape = Figure(np.frombuffer(raster, np.float32).reshape((cells,) * rank))
    one = cells / (2 * RADIUS)
    drawn = np.stack(
        [shape.draw(_coordinates(rank) * one, scale * one) >= 0.5 for scale in _SCALES]
    ).astype(np.float32)
    axes = tuple(range(-rank, 0))
    return np.fft.rfftn(drawn, _padded(rank), axes).conj(), drawn.sum(axis=axes)


@functools.lru_cache(maxsize=2)
def _coordinates(rank: int) -> np.ndarray:
    cells = _CELLS[rank]
    axis = (np.arange(cells) - (cells - 1) / 2) * (2 * RADIUS / cells)
    return np.stack(np.meshgrid(*[axis] * rank, indexing="ij"))


def _figure(inside: Inside, rank: int) -> Figure:
    """A raster of equal area with its centre of gravity in the middle."""
    grid = _coordinates(rank)
    cell = (2 * RADIUS / _CELLS[rank]) ** rank
    scale, middle = 1.0, np.zeros((rank, *[1] * rank))
    for _ in range(2):  # Once more, since the first raster may be coarse or cut off.
        mask = inside(grid * scale + middle)
        covered = int(mask.sum())
        if covered * cell < 0.05:
            raise ValueError("A figure without an area.")
        middle = middle + scale * grid[:, mask].mean(axis=1).reshape(middle.shape)
        scale *= (covered * cell) ** (1 / rank)
    # Four samples (eight) of every cell, so that slanted edges are no stairs.
    quarter = scale * RADIUS / _CELLS[rank] / 2
    raster = np.zeros(grid.shape[1:], np.float32)
    for corner in np.ndindex(*[2] * rank):
        moved = quarter * (2 * np.reshape(corner, middle.shape) - 1)
        raster += inside(grid * scale + middle + moved)
    return Figure(raster / 2**rank)


def _inside_of(draw: Template) -> Inside:
    return lambda u: draw(u, 1.0) >= 0.5


def _turned(rng: np.random.Generator, rank: int, inside: Inside, most: float = np.pi) -> Inside:
    """A figure after a rotation about a random axis."""
    first, second = np.linalg.qr(rng.standard_normal((rank, rank)))[0][:, :2].T
    angle = rng.uniform(-most, most)
    plane = np.outer(first, first) + np.outer(second, second)
    turn = np.outer(second, first) - np.outer(first, second)
    matrix = np.eye(rank) + (np.cos(angle) - 1) * plane + np.sin(angle) * turn
    return lambda u: inside(np.tensordot(matrix, u, 1))


def _column(values: np.ndarray) -> np.ndarray:
    return np.reshape(values, (-1, *[1] * len(values)))


def _half(rng: np.random.Generator, rank: int, most: float) -> Inside:
    """A half-space; along an axis as often as not."""
    normal = rng.standard_normal(rank)
    if rng.random() < 0.5:
        normal = np.eye(rank)[int(rng.integers(rank))] * rng.choice((-1, 1))
    normal /= np.linalg.norm(normal)
    distance = rng.uniform(-most, most)
    return lambda u: np.tensordot(normal, u, 1) < distance


def _box(rng: np.random.Generator, rank: int) -> Inside:
    sides = _column(np.exp(rng.uniform(-0.7, 0.7, rank)) / 2)

    def inside(u: np.ndarray) -> np.ndarray:
        return np.asarray((np.abs(u) < sides).all(axis=0))

    return inside if rng.random() < 0.6 else _turned(rng, rank, inside)


def _ellipsoid(rng: np.random.Generator, rank: int) -> Inside:
    """A superellipsoid, from a star with four rays over an ellipsoid to nearly a box."""
    sides = _column(np.exp(rng.uniform(-0.6, 0.6, rank)) / 2)
    power = float(np.exp(rng.uniform(np.log(0.5), np.log(6.0))))
    if rng.random() < 0.3:
        power = 2.0
    inside: Inside = lambda u: (np.abs(u / sides) ** power).sum(axis=0) < 1  # noqa: E731
    return inside if rng.random() < 0.5 else _turned(rng, rank, inside)


def _polytope(rng: np.random.Generator, rank: int) -> Inside:
    """A polygon or polyhedron, regular as often as not: triangles, pentagons, hexagons."""
    faces = int(rng.integers(rank + 1, 8 if rank == 2 else 11))
    if rng.random() < 0.6:
        angles = 2 * np.pi * np.arange(faces) / faces + rng.uniform(0, 2 * np.pi)
        normals = np.stack([np.cos(angles), np.sin(angles), *[0 * angles] * (rank - 2)])
        distances = np.full(faces, 0.5)
        if rank == 3:  # A prism, or a cone over the polygon.
            slope = 0.4 * rng.integers(2)
            normals = np.concatenate(
                [
                    normals + np.eye(3)[:, 2:] * slope,
                    [[0], [0], [-1]] * np.ones((1, 1)),
                    [[0], [0], [1]] * np.ones((1, 1)),
                ],
                axis=1,
            )
            distances = np.concatenate([distances, [0.5, 0.5]])
    else:
        normals = rng.standard_normal((rank, faces))
        normals /= np.linalg.norm(normals, axis=0)
        distances = rng.uniform(0.25, 0.6, faces)

    def inside(u: np.ndarray) -> np.ndarray:
        return (np.tensordot(normals.T, u, 1) < _wide(distances, rank)).all(axis=0) & (
            np.abs(u).max(axis=0) < 1.2
        )

    return _turned(rng, rank, inside)


def _wide(values: np.ndarray, rank: int) -> np.ndarray:
    return values.reshape(-1, *[1] * rank)


def _star(rng: np.random.Generator, rank: int) -> Inside:
    """A star, a flower, or a wheel with lobes."""
    rays, depth = int(rng.integers(2, 8)), rng.uniform(0.15, 0.65)
    phase, sharp = rng.uniform(0, 2 * np.pi), rng.random() < 0.5

    def inside(u: np.ndarray) -> np.ndarray:
        angle = np.arctan2(u[1], u[0]) * rays + phase
        wave = np.abs((angle / np.pi) % 2 - 1) * 2 - 1 if sharp else np.cos(angle)
        return np.sqrt((u**2).sum(axis=0)) < 0.5 * (1 + depth * wave)

    return _turned(rng, rank, inside) if rank == 3 else inside


def _cells(rng: np.random.Generator, rank: int) -> Inside:
    """A polyomino or polycube: some cells of a small grid."""
    n = int(rng.integers(2, 6 if rank == 2 else 4))
    filled = rng.random((n,) * rank) < rng.uniform(0.35, 0.8)

    def inside(u: np.ndarray) -> np.ndarray:
        place = np.floor((u + 0.7) * n / 1.4).astype(int)
        within = ((place >= 0) & (place < n)).all(axis=0)
        return filled[tuple(np.clip(place, 0, n - 1))] & within

    return inside if rng.random() < 0.7 else _turned(rng, rank, inside)


def _strokes(rng: np.random.Generator, rank: int) -> Inside:
    """Two to five strokes that meet: crosses, L, T, U, steps, letters."""
    thick = rng.uniform(0.12, 0.3)
    knots = rng.choice((-0.5, 0.0, 0.5), (int(rng.integers(3, 6)), rank))
    if rng.random() < 0.4:
        knots = knots + rng.uniform(-0.3, 0.3, knots.shape)
    linked = rng.random() < 0.6  # One line, or strokes through the middle.
    pairs = [(knots[i - 1], knots[i]) for i in range(1, len(knots))]
    if not linked:
        pairs = [(a, -a if rng.random() < 0.5 else 0 * a) for a in knots[:4]]
    blunt = rng.random() < 0.6

    def inside(u: np.ndarray) -> np.ndarray:
        found = np.zeros(u.shape[1:], bool)
        for start, end in pairs:
            along = end - start
            length = max(float((along**2).sum()), 1e-9)
            away = u - _column(start)
            t = np.clip(np.tensordot(along, away, 1) / length, 0, 1)
            rest = away - _column(along) * t
            found |= (
                np.abs(rest).max(axis=0) if blunt else np.sqrt((rest**2).sum(axis=0))
            ) < thick / 1.0
        return found

    return inside


def _scatter(rng: np.random.Generator, rank: int) -> Inside:
    """Small pieces, apart or touching."""
    count = int(rng.integers(2, 8))
    centers = rng.uniform(-0.6, 0.6, (count, rank))
    sides = rng.uniform(0.08, 0.26, count)
    square = rng.random() < 0.5

    def inside(u: np.ndarray) -> np.ndarray:
        found = np.zeros(u.shape[1:], bool)
        for center, side in zip(centers, sides, strict=True):
            away = np.abs(u - _column(center))
            found |= (away.max(axis=0) if square else np.sqrt((away**2).sum(axis=0))) < side
        return found

    return inside


def _blob(rng: np.random.Generator, rank: int) -> Inside:
    """What a smooth noise leaves of a ball."""
    waves = rng.standard_normal((12, rank)) * rng.uniform(2.5, 8.0)
    phases, weights = rng.uniform(0, 2 * np.pi, 12), rng.standard_normal(12) / np.sqrt(6)
    level, radius = rng.uniform(-0.5, 0.4), rng.uniform(0.5, 0.9)

    def inside(u: np.ndarray) -> np.ndarray:
        noise = np.zeros(u.shape[1:])
        for wave, phase, weight in zip(waves, phases, weights, strict=True):
            noise += weight * np.cos(np.tensordot(wave, u, 1) + phase)
        return (noise > level) & (np.sqrt((u**2).sum(axis=0)) < radius)

    return inside


def _hollow(rng: np.random.Generator, rank: int, inside: Inside) -> Inside:
    """A ring or shell, a crescent or bracket: a figure without a smaller copy of it."""
    scale = rng.uniform(0.4, 0.9)
    moved = _column(rng.uniform(-0.4, 0.4, rank) * rng.integers(2))
    return lambda u: inside(u) & ~inside((u - moved) / scale)


def _cut(rng: np.random.Generator, rank: int, inside: Inside) -> Inside:
    """A part of a figure: on one side of one or two planes, or all but a corner."""
    planes = [_half(rng, rank, 0.3) for _ in range(int(rng.integers(1, 3)))]
    if rng.random() < 0.5:
        return lambda u: inside(u) & functools.reduce(np.logical_and, [p(u) for p in planes])
    return lambda u: inside(u) & functools.reduce(np.logical_or, [p(u) for p in planes])


def _related(rng: np.random.Generator, rank: int, inside: Inside) -> Inside:
    """The shape, but stretched, sheared, turned, cut, hollow, in two, or with something on it."""
    kind = int(rng.integers(7))
    if kind == 0:
        sides = _column(np.exp(rng.uniform(-0.5, 0.5, rank)))
        return lambda u: inside(u / sides)
    if kind == 1:
        return _turned(rng, rank, inside)
    if kind == 2:
        return _cut(rng, rank, inside)
    if kind == 3:
        return _hollow(rng, rank, inside)
    if kind == 4:
        shear = np.eye(rank) + rng.uniform(-0.6, 0.6, (rank, rank)) * (1 - np.eye(rank))
        return lambda u: inside(np.tensordot(shear, u, 1))
    moved = _column(rng.uniform(-0.9, 0.9, rank))
    if kind == 5:
        scale = rng.uniform(0.4, 1.0)
        return lambda u: inside(u) | inside((u - moved) / scale)
    notch = _kinds(rank)[int(rng.integers(len(_kinds(rank))))](rng, rank)
    scale = rng.uniform(0.3, 0.8)
    if rng.random() < 0.5:
        return lambda u: inside(u) & ~notch((u - moved) / scale)
    return lambda u: inside(u) | notch((u - moved) / scale)


def _kinds(rank: int) -> tuple[Callable[[np.random.Generator, int], Inside], ...]:
    del rank
    return (_box, _ellipsoid, _polytope, _star, _cells, _strokes, _scatter, _blob)
