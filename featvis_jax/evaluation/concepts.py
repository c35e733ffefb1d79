"""The shapes that pictures are asked for, and which of them have one outline.

Every shape is drawn at equal area, so that size alone favours none. Two shapes are of one
*outline* where the voxels that they cover most, as many as the area has, overlap by more than 95 %
(Dice): a disc with a sharp edge and one with a soft edge (99 %) are, a square and a disc (91 %)
are not. The steepness of an edge is the least that a picture keeps, once it was smoothed for
robustness or sharpened by the ascent, and a network that looks for soft discs is not wrong to draw
a sharp one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from featvis_jax.data import shapes
from featvis_jax.data.shapes import Shape

Template = Callable[[Float[np.ndarray, "rank *window"], float], Float[np.ndarray, "*window"]]
"""``(offsets from the centre in voxels, size) -> mask``; all have the same area at one size."""

# Shapes that overlap more than this have one outline.
_ONE_OUTLINE = 0.95
# Windows with less than this share of the strongest one's contrast count less: a faint
# accident on a flat background is not what a picture shows.
_FAINT = 0.2


def template(shape: Shape) -> Template:
    """A matched filter for a lesion shape, the user's own or one of ours.

    Args:
      shape: `featvis_jax.data.shapes.Shape`.

    Returns:
      A template whose size is the side of the square (cube) of the same area (volume).

    Example:
      >>> axis = np.arange(-20, 20) + 0.5
      >>> offsets = np.stack(np.meshgrid(axis, axis, indexing="ij"))
      >>> int(template(shapes.square)(offsets, 20.0).sum())  # 20 * 20
      400
    """

    def draw(offsets: np.ndarray, size: float) -> np.ndarray:
        rank = offsets.shape[0]
        return np.asarray(
            shape(offsets, np.zeros(rank), size / shapes.equal_area_side(shape, rank)), np.float64
        )

    return draw


TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        **{name: template(shape) for name, shape in shapes.SHAPES.items()},
        "line": template(shapes.bar),
    }
)
"""The shapes that are known by name."""


def templates_with(name: str, shape: Shape) -> dict[str, Template]:
    """The templates, and one more for a shape of the user's own.

    Args:
      name: Its name; one of `TEMPLATES` is replaced.
      shape: The shape.
    """
    return {**TEMPLATES, name: template(shape)}


def rivals(shape: str, *, templates: Mapping[str, Template] = TEMPLATES, rank: int) -> list[str]:
    """The templates that are of another outline than a shape.

    Args:
      shape: One of the templates.
      templates: All of them.
      rank: 2 or 3.

    Example:
      >>> rivals("gaussian", rank=2)
      ['square', 'line']
    """
    own = _covered(templates[shape], rank)
    return [
        name
        for name, other in templates.items()
        if name != shape and _dice(own, _covered(other, rank)) < _ONE_OUTLINE
    ]


def outlines(
    names: Sequence[str], *, templates: Mapping[str, Template] = TEMPLATES, rank: int
) -> dict[str, tuple[str, ...]]:
    """Shapes put together by outline.

    Args:
      names: Some of the templates.
      templates: All of them.
      rank: 2 or 3.

    Returns:
      For the first shape of every outline all that share it.

    Example:
      >>> outlines(["square", "disc", "gaussian"], rank=2)
      {'square': ('square',), 'disc': ('disc', 'gaussian')}
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        others = rivals(name, templates=templates, rank=rank)
        first = next((key for key in found if key not in others), None)
        if first is None:
            found[name] = (name,)
        else:
            found[first] = (*found[first], name)
    return found


def _covered(draw: Template, rank: int) -> np.ndarray:
    """Where a template is strongest, on as many voxels as its area has."""
    size = 40 if rank == 2 else 20
    axis = np.arange(-1.5 * size, 1.5 * size) + 0.5
    mask = draw(np.stack(np.meshgrid(*[axis] * rank, indexing="ij")), float(size))
    level = np.sort(mask, axis=None)[-(size**rank)]
    return mask >= max(float(level), 1e-6)


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


def along_every_axis(draw: Template, rank: int) -> list[Template]:
    """A shape with its first axis along each axis of the grid, as far as that makes a difference.

    Args:
      draw: The shape.
      rank: 2 or 3.

    Example:
      >>> len(along_every_axis(TEMPLATES["square"], 3)), len(along_every_axis(TEMPLATES["line"], 3))
      (1, 3)
    """
    different: list[tuple[Template, np.ndarray]] = []
    for axis in range(rank):
        order = np.arange(rank)
        order[[0, axis]] = order[[axis, 0]]

        def turned(offsets: np.ndarray, size: float, order: np.ndarray = order) -> np.ndarray:
            return draw(offsets[order], size)

        covered = _covered(turned, rank)
        if not any((covered == other).all() for _, other in different):
            different.append((turned, covered))
    return [turned for turned, _ in different]


def local_deviation(
    plane: Float[np.ndarray, "*spatial"], side: int
) -> Float[np.ndarray, "*windows"]:
    """Root of the sum of squared deviations from the mean, in every window of a side.

    Args:
      plane: The picture.
      side: Of the windows, in voxels.

    Returns:
      For every window that lies inside; where there is next to no contrast a floor.
    """
    voxels = side**plane.ndim
    squares = _window_sums(plane**2, side)
    deviation = np.sqrt(np.maximum(squares - _window_sums(plane, side) ** 2 / voxels, 0))
    # A window without contrast matches nothing; the floor is far above the sums' rounding.
    return np.maximum(deviation, max(1e-3 * math.sqrt(voxels), _FAINT * float(deviation.max())))


def _window_sums(values: np.ndarray, side: int) -> np.ndarray:
    """Sum of every window of a side that lies inside."""
    for axis in range(values.ndim):
        first = np.zeros_like(np.take(values, [0], axis))
        total = np.concatenate([first, np.cumsum(values, axis)], axis)
        count = total.shape[axis]
        upper = np.take(total, range(side, count), axis)
        values = upper - np.take(total, range(count - side), axis)
    return values
