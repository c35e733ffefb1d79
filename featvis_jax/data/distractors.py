"""Distractors: shapes that images of every class have, so that a task asks for an outline.

A network learns as little as its task asks for. Where nothing else in an image has an edge, an edge
is enough for it to find squares; where only discs have to be told from squares, a corner is.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from featvis_jax.data.lesions import Lesions
from featvis_jax.data.shapes import (
    Mask,
    Shape,
    as_large_as,
    bar,
    disc,
    gaussian,
    lump,
    square,
    stretched,
    three_quarters,
    with_knob,
)


def of_shapes(shapes: Sequence[Shape], rank: int) -> tuple[Shape, ...]:
    """Shapes of other outlines: what a network must tell from some shapes in order to know them.

    Of one shape, which is told from brains: square, disc and a bar along each axis, three times as
    long as wide, without the shape itself, and no disc for `gaussian`.

    In volumes that is not enough: where all others are longer or shorter along an axis than any
    cube, a network tells cubes by two opposite faces, and where all others have edges, whatever
    has none is a ball. There are also plates across each axis, bars and plates of which one side
    is twice another, and the shape without a quarter (`featvis_jax.data.shapes.three_quarters`).
    Balls are told from round bodies, too: from those that are stretched and flattened by as much,
    from balls with a knob (`with_knob`), and from bodies that no rule made (`lump`). All of them
    are as large as the shape is.

    Of shapes that are told from each other: each of them without a quarter, cut out at either side
    along every pair of axes, and bars and plates, the same number of each. So neither a right angle
    nor an arc tells a square from a disc: three of a square's corners are in images of discs, too,
    and most of a disc's arc is in those of squares.

    Args:
      shapes: One shape, or those that are told from each other.
      rank: 2 or 3.

    Example:
      >>> [distractor.__name__ for distractor in of_shapes([disc], 2)]
      ['square', 'bar', 'bar']
      >>> sorted({distractor.__name__ for distractor in of_shapes([square], 3)})
      ['bar', 'disc', 'plate', 'three quarters of square']
    """
    ratios = (3,) if rank == 2 else (3, 2, 1 / 3, 1 / 2)
    boxes = [
        _named(functools.partial(bar, axis=axis, ratio=ratio), "bar" if ratio > 1 else "plate")
        for ratio in ratios
        for axis in range(rank)
    ]
    quarters = [part for shape in shapes for part in _without_a_quarter(shape, rank)]
    if len(shapes) > 1:
        # A shape has twice as many quarters as there are bars, and as there are plates.
        found = [*boxes * 2, *quarters]
    elif rank == 2:
        found = [*_others(shapes[0]), *boxes]
    else:
        # Half as many as boxes, so that the other whole shape stays common.
        others = [*_others(shapes[0]) * (len(boxes) // 2), *boxes]
        if shapes[0] is square:
            found = [*others, *quarters]
        else:
            round_ones = [*_knobbed(shapes[0]), *_lumps()]
            found = [*others, *_ellipsoids(shapes[0]), *quarters, *round_ones]
    if rank == 2:
        return tuple(found)
    return tuple(
        _named(functools.partial(as_large_as, other=shapes[0], shape=shape), _name(shape))
        for shape in found
    )


def _others(shape: Shape) -> list[Shape]:
    """Whole shapes of another outline."""
    own = {gaussian, disc} if shape in (gaussian, disc) else {shape}
    return [other for other in (square, disc) if other not in own]


def _ellipsoids(shape: Shape) -> list[Shape]:
    """A ball, stretched and flattened along every axis."""
    return [
        _named(
            functools.partial(stretched, shape=shape, axis=axis, ratio=ratio),
            f"{'stretched' if ratio > 1 else 'flat'} {_name(shape)}",
        )
        for ratio in (2, 1 / 2)
        for axis in range(3)
    ]


def _without_a_quarter(shape: Shape, rank: int) -> list[Shape]:
    """A shape without each of its quarters."""
    return [
        _named(
            functools.partial(three_quarters, shape=shape, axes=axes, sides=(first, second)),
            f"three quarters of {_name(shape)}",
        )
        for axes in itertools.combinations(range(rank), 2)
        for first, second in itertools.product((-1, 1), repeat=2)
    ]


def _knobbed(shape: Shape) -> list[Shape]:
    """A ball with a knob at each side, and at each corner of a cube around it."""
    axes = np.eye(3, dtype=int)
    sides = [tuple(side) for side in np.vstack([axes, -axes]).tolist()]
    return [
        _named(
            functools.partial(with_knob, shape=shape, direction=direction),
            f"{_name(shape)} with a knob",
        )
        for direction in (*sides, *itertools.product((-1, 1), repeat=3))
    ]


def _lumps() -> list[Shape]:
    """Bodies of forms that have no name."""
    return [_named(functools.partial(lump, seed=seed), "lump") for seed in range(12)]


def add(
    shapes: tuple[Shape, ...],
    count: tuple[int, int],
    lesions: Lesions,
    image: Float32[np.ndarray, "*spatial 1"],
    rng: np.random.Generator,
    *,
    difficulty: float = 1.0,
) -> Float32[np.ndarray, "*spatial 1"]:
    """Draw distractors into a copy of an image, all kinds equally likely.

    Args:
      shapes: Of the distractors; without any, nothing is drawn from `rng`.
      count: Fewest and most of them, both included.
      lesions: How they are drawn, but for shape and count.
      image: Intensities on [0, 1], ``(*spatial, 1)``.
      rng: Where all draws come from.
      difficulty: Chance of each to be of the final kind, as in `Lesions.add`.

    Returns:
      The image with them.

    Raises:
      NoRoomError: The image has no brain, or a distractor does not fit into it.
    """
    if not shapes:
        return image
    for _ in range(rng.integers(count[0], count[1] + 1)):
        shape = shapes[rng.integers(len(shapes))]
        one = dataclasses.replace(lesions, shape=shape, count=(1, 1))
        image, _ = one.add(image, rng, difficulty=difficulty)
    return image


def _name(shape: Shape) -> str:
    return getattr(shape, "__name__", repr(shape))


def _named(shape: functools.partial[Mask], name: str) -> Shape:
    functools.update_wrapper(shape, shape.func)
    shape.__name__ = name  # pyright: ignore[reportAttributeAccessIssue]
    return shape
