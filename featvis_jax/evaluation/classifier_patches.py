"""The patches that a shape classifier learns from: shapes, other figures, and no figure at all.

A patch is the window of an element of a picture (`featvis_jax.evaluation.elements`): in its middle,
where the shape that is asked about would fit best, and as wide as that shape's size demands. So
place and size are the same in all patches, but for what the search leaves of them, and what is left
to be told is the outline.

Pictures are no anatomy: half of the patches have a phase-scrambled background, some an even one;
half of the figures have others like them around, and some are blurred, shaded or grainy.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from featvis_jax.evaluation.concepts import Template, along_every_axis
from featvis_jax.evaluation.elements import SIZES, elements, window_radius, window_side
from featvis_jax.evaluation.energy import phase_scrambled
from featvis_jax.evaluation.figures import of_template, overlap, random_figure

# Voxels along an axis of what the classifier sees, by rank; every patch is resampled to it.
_GRID = {2: 28, 3: 16}
# Sizes of elements in octaves of the nominal one.
_OCTAVES = (-1.0, 1.0)
# What the search leaves of places, in sizes, and of sizes, in octaves.
_SHIFT, _OCTAVE = 0.07, 0.15
# How many of the other figures are such by their place, from where on, in sizes and octaves.
_BESIDE, _LEAST_SIZES, _LEAST_OCTAVES = 0.15, 0.3, 0.45
# Voxels of the canvas on which a figure's elements are searched, and the figure's size, by rank.
_CANVAS = {2: (64, 10.0), 3: (40, 8.0)}
# At most so many elements of a figure are shown; the first as often as all others together.
_PARTS = 4
# Contrast of a figure, in standard deviations of its background.
_CONTRAST = (1.5, 8.0)
# How far figures are stretched, sheared and turned, and how many have specks and whiskers about.
_WARP, _FRINGED = 0.03, 0.5
# How far, in sizes, edges of every second figure are frayed.
_FRAYED = 0.08
# A random figure is the shape from the first overlap on, and is not up to the second.
_IS, _IS_NOT = 0.93, 0.87
# How often a shape is shown as it is, and not as one of the figures that are it; and by how much
# other figures are shown the more often the nearer they are.
_EXACT, _NEAREST = 0.6, 1.6
# A random figure for so many patches, by rank.
_PATCHES = {2: 16, 3: 64}
# Shares of the classes: of all shapes of a task, of all other known ones, of everything else that
# is a figure; the rest shows none.
_OWN, _KNOWN, _OTHER = 0.3, 0.12, 0.46


class _Subject(NamedTuple):
    """A figure, and where the shape that is asked about lies over it.

    Attributes:
      draw: The figure.
      lies: Its elements as the shape finds them, the most prominent first: their sizes, and their
        centres from the figure's, in the figure's sizes.
      share: Of the figure that the shape overlaps, at best.
    """

    draw: Template
    lies: Sequence[tuple[float, Float[np.ndarray, " rank"]]]
    share: float


class _Asked(NamedTuple):
    """A shape that pictures are asked for: its window, and what there is of every class.

    In every class the shapes themselves come first, `exact` of them.
    """

    radius: float
    subjects: Sequence[Sequence[_Subject]]
    exact: Sequence[int]


class Subjects(NamedTuple):
    """What patches show.

    Attributes:
      asked: For every shape of the task.
      shares: Of the classes.
    """

    asked: Sequence[_Asked]
    shares: Float[np.ndarray, " classes"]


def subjects(
    rng: np.random.Generator,
    outlines: Mapping[str, Sequence[str]],
    own: Sequence[str],
    templates: Mapping[str, Template],
    rank: int,
    *,
    patches: int,
) -> Subjects:
    """Everything that patches of every class can show; the last two are other figures and none.

    Args:
      rng: Where random figures come from.
      outlines: The shapes that are told apart, and which templates each of them is drawn from.
      own: Those that pictures are asked for.
      templates: The shapes.
      rank: 2 or 3.
      patches: How many will be made.
    """
    figures = [of_template(templates[name], rank) for name in own]
    asked = []
    for name in own:
        search = functools.partial(_search, shape=templates[name], rank=rank)
        found: list[list[_Subject]] = [
            [
                _Subject(draw, search(draw)[:1], 1.0)
                for member in members
                for draw in _as_drawn(templates[member], rank, turned=first not in own)
            ]
            for first, members in outlines.items()
        ]
        exact = [*map(len, found), 0]
        other: list[_Subject] = []
        for _ in range(patches // _PATCHES[rank] + 1):
            figure = random_figure(rng, rank, templates[name])
            shares = [overlap(figure, each) for each in figures]
            nearest, lies = int(np.argmax(shares)), search(figure.draw)
            if not lies:  # Pieces too far apart for the canvas.
                continue
            if shares[nearest] <= _IS_NOT:
                other.append(_Subject(figure.draw, lies, shares[nearest]))
            elif shares[nearest] >= _IS:
                here = _Subject(figure.draw, lies[:1], 1.0)
                found[list(outlines).index(own[nearest])].append(here)
        # Nearest first: what is nearly the shape takes more to tell from it.
        other.sort(key=lambda each: -each.share)
        asked.append(_Asked(window_radius(templates[name], rank), [*found, other], exact))
    shares = [
        _OWN / len(own) if name in own else _KNOWN / max(len(outlines) - len(own), 1)
        for name in outlines
    ]
    shares += [_OTHER, 1 - _OWN - _KNOWN - _OTHER]
    return Subjects(asked, np.array(shares))


def _search(
    draw: Template, *, shape: Template, rank: int
) -> list[tuple[float, Float[np.ndarray, " rank"]]]:
    """The elements of a figure alone on an even background, as `_Subject.lies`."""
    cells, size = _CANVAS[rank]
    middle = (cells - 1) / 2
    image = np.asarray(draw(_offsets(cells, rank), size), np.float64)[..., None]
    radius = window_radius(shape, rank)
    fitting = [each for each in SIZES[:: rank - 1] if window_side(each * size, radius) <= cells]
    found = elements(image, shape, size=size, multiples=fitting, radius=radius, count=_PARTS)
    return [(each.size / size, (each.center - middle) / size) for each in found]


def _as_drawn(draw: Template, rank: int, *, turned: bool) -> list[Template]:
    """A shape that is asked for is as lesions are; a bar, for example, is one along any axis."""
    return along_every_axis(draw, rank) if turned else [draw]


def patches(
    rng: np.random.Generator,
    images: Sequence[Float[np.ndarray, "*spatial 1"]],
    shown: Subjects,
    *,
    size: float,
    count: int,
) -> tuple[Float[np.ndarray, "n *grid 1"], Int[np.ndarray, " n"]]:
    """Patches of every class, and their classes.

    Args:
      rng: Where they come from.
      images: Clean images, whose windows are their backgrounds.
      shown: What they show.
      size: Nominal size of a shape in voxels.
      count: How many.

    Raises:
      ValueError: An image is smaller than a patch.
    """
    largest = _largest(images, shown, size)
    backgrounds = [images, [phase_scrambled(image, rng) for image in images]]
    shares = shown.shares / shown.shares.sum()
    labels = rng.choice(len(shares), size=count, p=shares)
    made = []
    for label in labels:
        asked = shown.asked[int(rng.integers(len(shown.asked)))]
        extent = size * float(np.exp2(rng.uniform(_OCTAVES[0], largest)))
        side = window_side(extent, asked.radius)
        background = _background(rng, backgrounds[int(rng.integers(2))], side)
        members = asked.subjects[min(label, len(shares) - 2)]
        exact = asked.exact[min(label, len(shares) - 2)]
        if rng.random() < _EXACT and exact:
            subject = members[int(rng.integers(exact))]
        else:
            subject = members[int(len(members) * rng.random() ** _NEAREST)]
        if label == len(shares) - 1:
            patch = _shapeless(rng, background, subject, extent)
        else:
            if label == len(shares) - 2 and rng.random() < _BESIDE:
                anything = asked.subjects[int(rng.integers(len(asked.subjects)))]
                subject = _beside(rng, anything[int(rng.integers(len(anything)))], background.ndim)
            patch = _drawn(rng, background, subject, extent)
        made.append(normalised(_grainy(rng, patch)))
    return np.stack(made), labels


def _largest(images: Sequence[np.ndarray], shown: Subjects, size: float) -> float:
    """Octaves of the nominal size up to which windows fit into all images."""
    room = min(min(image.shape[:-1]) for image in images)
    radius = max(each.radius for each in shown.asked)
    side = window_side(size, radius)
    if side > room:
        raise ValueError(
            f"The images have {images[0].shape[:-1]} voxels and a patch {side} along each axis: "
            "take larger images or smaller lesions."
        )
    # Rounded, a side may be two voxels longer.
    return min(_OCTAVES[1], max(float(np.log2((room - 2) / (2 * radius * size))), 0.0))


def normalised(patch: Float[np.ndarray, "*window"]) -> Float[np.ndarray, "*grid 1"]:
    """A patch on the classifier's grid, with zero mean and unit deviation.

    Args:
      patch: The window of an element.
    """
    grid = _GRID[patch.ndim]
    resampled = np.asarray(
        ndimage.zoom(
            patch, [grid / n for n in patch.shape], order=1, mode="nearest", grid_mode=True
        )
    )
    centred = resampled - resampled.mean()
    return np.asarray((centred / max(float(centred.std()), 1e-6))[..., None], np.float32)


def _offsets(side: int, rank: int) -> np.ndarray:
    axis = np.arange(side) - (side - 1) / 2
    return np.stack(np.meshgrid(*[axis] * rank, indexing="ij"))


def _drawn(
    rng: np.random.Generator, background: np.ndarray, subject: _Subject, extent: float
) -> np.ndarray:
    """A background with a figure in the middle, and for half of the patches more around it."""
    side, rank = background.shape[0], background.ndim
    offsets, column = _offsets(side, rank), (-1, *[1] * rank)
    part = int(rng.integers(len(subject.lies))) if rng.random() < 0.5 else 0
    scale, place = subject.lies[part]
    size = extent / scale * float(np.exp2(rng.uniform(-_OCTAVE, _OCTAVE)))
    centers = [rng.uniform(-_SHIFT, _SHIFT, rank) * extent - place * size]
    signs = [rng.choice((-1, 1))]
    alike = rng.random() < 0.7
    # Pictures are full of figures that touch each other.
    for _ in range(int(rng.integers(1, 3**rank - 1)) * int(rng.integers(2))):
        away = rng.standard_normal(rank)
        distance = size * rng.uniform(1.0, 1.8) / float(np.abs(away).max())
        centers.insert(0, centers[-1] + away * distance)
        signs.insert(0, signs[-1] if alike else rng.choice((-1, 1)))
    blur = rng.uniform(0, 0.15 * extent) * rng.integers(2)
    spread = max(float(background.std()), 0.02)
    patch = background.copy()
    contrast = rng.uniform(*_CONTRAST)
    specked = rng.random() < 0.3
    # What an ascent draws is never quite straight, nor are its edges.
    frayed = rng.uniform(0, _FRAYED) * rng.integers(2)
    warp = np.eye(rank) + rng.uniform(-_WARP, _WARP, (rank, rank))
    for center, sign in zip(centers, signs, strict=True):
        away = np.tensordot(warp, offsets - center.reshape(column), 1)
        if frayed:
            away = away + frayed * size * _fraying(rng, away.shape)
        mask = subject.draw(away, size)
        mask = ndimage.gaussian_filter(mask, blur) if blur else mask
        mask = mask * _specked(rng, mask.shape) if specked else mask
        level = background.mean() + sign * contrast * rng.uniform(0.6, 1.0) * spread
        # Shaded, as many a picture's shapes are.
        shade = rng.standard_normal(rank) * rng.integers(2) * spread / extent
        patch = patch * (1 - mask) + (level + np.tensordot(shade, offsets, 1)) * mask
    if rng.random() < _FRINGED:
        patch = _fringed(rng, patch, extent, background.mean() + signs[-1] * contrast * spread)
    return patch


def _fraying(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """By how much every voxel is displaced, of unit deviation along every axis."""
    sigma = rng.uniform(0.4, 1.5)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), [0, *[sigma] * (len(shape) - 1)])
    return noise / noise.std()


def _specked(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """What is left of a figure whose voxels are not all drawn alike."""
    holes = ndimage.gaussian_filter(rng.random(shape), rng.uniform(0, 0.8))
    few = holes < np.quantile(holes, rng.uniform(0, 0.35))
    return 1 - few * rng.uniform(0.3, 1.0)


def _fringed(
    rng: np.random.Generator, patch: np.ndarray, extent: float, level: float
) -> np.ndarray:
    """A patch with a few whiskers and specks about its figure, as ascents leave them."""
    offsets = _offsets(patch.shape[0], patch.ndim) / extent
    for _ in range(int(rng.integers(1, 5))):
        sides = rng.uniform(0.03, 0.07, patch.ndim)
        sides[int(rng.integers(patch.ndim))] = rng.uniform(0.1, 0.3)
        specks = rng.random() < 0.5
        if specks:
            sides = rng.uniform(0.08, 0.25, patch.ndim)
        center = rng.standard_normal(patch.ndim)
        center *= rng.uniform(0.4, 0.95) / float(np.abs(center).max())
        away = np.abs(offsets - center.reshape(-1, *[1] * patch.ndim))
        mask = (away < sides.reshape(-1, *[1] * patch.ndim)).all(axis=0) * rng.uniform(0.3, 1.0)
        if specks:
            mask = mask * (rng.random(mask.shape) < rng.uniform(0.2, 0.6))
        patch = patch * (1 - mask) + level * mask
    return patch


def _shapeless(
    rng: np.random.Generator, background: np.ndarray, subject: _Subject, extent: float
) -> np.ndarray:
    """A background as it is, with a texture, or what was drawn on it without its phases."""
    chance = rng.random()
    if chance < 0.3:
        mask = _texture(
            rng, _offsets(background.shape[0], background.ndim), extent * rng.uniform(0.3, 1.2)
        )
        return background + mask * rng.uniform(*_CONTRAST) * max(float(background.std()), 0.02)
    if chance < 0.6:
        return phase_scrambled(_drawn(rng, background, subject, extent)[..., None], rng)[..., 0]
    return background


def _beside(rng: np.random.Generator, subject: _Subject, rank: int) -> _Subject:
    """A window that is beside a figure, or is meant for one of another size."""
    octaves, away = 0.0, np.zeros(rank)
    while abs(octaves) < _LEAST_OCTAVES and np.abs(away).max() < _LEAST_SIZES:
        octaves, away = rng.uniform(-0.5, 1.8), rng.uniform(-0.9, 0.9, rank)
        away *= 2.0 ** max(octaves - 0.5, 0.0)
    size, center = subject.lies[0]
    return subject._replace(lies=[(size * 2.0**-octaves, center + away * size)])


def _grainy(rng: np.random.Generator, patch: np.ndarray) -> np.ndarray:
    """A patch with white noise, as pictures have it and brains do not; half stay as they are."""
    grain = rng.uniform(0, 0.6) * rng.integers(2) * float(patch.std())
    return patch + grain * rng.standard_normal(patch.shape)


def _background(rng: np.random.Generator, images: Sequence[np.ndarray], side: int) -> np.ndarray:
    """A window of an image with something in it, or an even or sloping background."""
    image = images[int(rng.integers(len(images)))][..., 0]
    if rng.random() < 0.3:
        slope = rng.standard_normal(image.ndim) * 0.02 * rng.integers(2) / side
        return 0.5 + np.tensordot(slope, _offsets(side, image.ndim), 1)
    patch = np.zeros((side,) * image.ndim)
    for _ in range(50):
        first = [int(rng.integers(n - side + 1)) for n in image.shape]
        patch = image[tuple(slice(f, f + side) for f in first)].astype(np.float64)
        if (np.abs(patch) > 1e-3).mean() > 0.8:
            break
    return patch


def _texture(rng: np.random.Generator, offsets: np.ndarray, size: float) -> np.ndarray:
    """Stripes along one axis, or a checkerboard, at any phase."""
    rank = offsets.shape[0]
    cells = np.floor(offsets / size + rng.uniform(0, 2, rank).reshape(-1, *[1] * rank))
    chosen = cells[int(rng.integers(rank))] if rng.random() < 0.5 else cells.sum(axis=0)
    return (chosen % 2).astype(np.float64)
