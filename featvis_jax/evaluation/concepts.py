"""Does a picture show the shape that was planted? Matched filters against look-alikes.

The scores are computed from images alone and know nothing of how an image was made.

Every shape is compared at equal area, so that size alone favours none. Two shapes are of one
*outline* where the voxels that they cover most, as many as the area has, overlap by more than 95 %
(Dice): a disc with a sharp edge and one with a soft edge (99 %) are, a square and a disc (91 %)
are not. A shape's rivals are those of another outline. The steepness of an edge is the least that
a picture keeps, once it was smoothed for robustness or sharpened by the ascent, and a network that
looks for soft discs is not wrong to draw a sharp one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import fft

from featvis_jax.data import lesions
from featvis_jax.data.lesions import Shape

Template = Callable[[Float[np.ndarray, "rank *window"], float], Float[np.ndarray, "*window"]]
"""``(offsets from the centre in voxels, size) -> mask``; all have the same area at one size."""

# Sizes at which a shape is searched for, as multiples of the nominal one.
OCTAVES = (0.5, 1 / math.sqrt(2), 1.0, math.sqrt(2), 2.0)

# Shapes that overlap more than this have one outline.
_ONE_OUTLINE = 0.95
# Windows with less than this share of the strongest one's contrast count less: a faint
# accident on a flat ground is not what a picture shows.
_FAINT = 0.2


class Match(NamedTuple):
    """How well an image matches each shape.

    Attributes:
      correlation: For every shape the largest absolute normalised cross-correlation over all
        positions, axes and sizes, on [0, 1].
      size: The size at which that was, in voxels: the side of a square of the same area.
    """

    correlation: Mapping[str, float]
    size: Mapping[str, float]

    def margin(self, shape: str, *, rivals: Sequence[str] | None = None) -> float:
        """By how much a shape leads the best of its rivals; negative where it does not.

        Args:
          shape: One of the shapes.
          rivals: Those that it has to beat; all others by default (`rivals` of this module leaves
            out those of the same outline).
        """
        if rivals is None:
            rivals = [name for name in self.correlation if name != shape]
        return self.correlation[shape] - max(self.correlation[name] for name in rivals)


def template(shape: Shape) -> Template:
    """A matched filter for a lesion shape, the user's own or one of ours.

    Args:
      shape: `featvis_jax.data.lesions.Shape`.

    Returns:
      A template whose size is the side of the square (cube) of the same area (volume).

    Example:
      >>> axis = np.arange(-20, 20) + 0.5
      >>> offsets = np.stack(np.meshgrid(axis, axis, indexing="ij"))
      >>> int(template(lesions.square)(offsets, 20.0).sum())  # 20 * 20
      400
    """

    def draw(offsets: np.ndarray, size: float) -> np.ndarray:
        rank = offsets.shape[0]
        return np.asarray(
            shape(offsets, np.zeros(rank), size / equal_area_side(shape, rank)), np.float64
        )

    return draw


@functools.lru_cache(maxsize=64)
def equal_area_side(shape: Shape, rank: int) -> float:
    """Side of the square (cube) that has the area of a shape of size 1.

    Args:
      shape: The shape; the area of a soft one is the sum of its mask.
      rank: 2 or 3.

    Raises:
      ValueError: The shape is empty.

    Example:
      >>> round(equal_area_side(lesions.square, 2), 2)
      1.0
    """
    size = 48.0 if rank == 2 else 20.0
    # Half a voxel off, so that an even size covers as many voxels as it says.
    axis = np.arange(-1.5 * size, 1.5 * size) + 0.5
    offsets = np.stack(np.meshgrid(*[axis] * rank, indexing="ij"))
    area = float(np.asarray(shape(offsets, np.zeros(rank), size)).sum())
    if not 0 < area < math.inf:
        raise ValueError(
            f"The lesion shape {getattr(shape, '__name__', shape)!r} has the area {area} at size "
            f"{size}; expected a mask that is somewhere above 0."
        )
    return area ** (1 / rank) / size


def _checkerboard(offsets: np.ndarray, size: float) -> np.ndarray:
    """Cells of a side, the middle one on; the texture that would pass for a square."""
    cells = np.floor(offsets / size + 0.5).sum(axis=0)
    return (cells % 2 == 0).astype(np.float64)


TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {
        **{name: template(shape) for name, shape in lesions.SHAPES.items()},
        "line": template(lesions.bar),
        "checkerboard": _checkerboard,
    }
)
"""The shapes that an image is compared with, and a texture."""


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
      ['square', 'line', 'checkerboard']
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


def match_shapes(
    image: Float[np.ndarray, "*spatial channels"],
    *,
    size: float,
    templates: Mapping[str, Template] = TEMPLATES,
    multiples: Sequence[float] = OCTAVES,
) -> Match:
    r"""Correlate an image with every shape at several sizes.

    Each template t lies in the middle of a window W twice its size, along every axis of the grid,
    and the correlation is normalised by the image's own contrast in that window:

        r = max_W |sum_W (x - mean_W x) (t - mean t)| / (|x - mean_W x|_W |t - mean t|)

    A perfect copy scores 1 whatever its grey levels and its polarity. A window with less than a
    fifth of the contrast of the strongest one is divided by that fifth instead.

    Args:
      image: ``(*spatial, channels)``; channels are averaged.
      size: Nominal size in voxels: the side of a square of the same area.
      templates: The shapes.
      multiples: Sizes to search, as multiples of the nominal one.

    Returns:
      The best match of every shape.

    Example:
      >>> image = np.full((64, 64, 1), 0.5)
      >>> image[20:32, 30:42] = 0.8
      >>> found = match_shapes(image, size=12.0)
      >>> max(found.correlation, key=found.correlation.get), round(found.size["square"])
      ('square', 12)
    """
    plane = np.asarray(image, np.float64).mean(axis=-1)
    plane = plane - plane.mean()
    padded = [fft.next_fast_len(n, True) or n for n in plane.shape]
    axes = tuple(range(plane.ndim))
    spectrum = np.fft.rfftn(plane, padded, axes)
    correlation = dict.fromkeys(templates, 0.0)
    sizes = dict.fromkeys(templates, math.nan)
    for multiple in multiples:
        side = 2 * max(round(size * multiple), 2)
        # Even and odd sizes need even and odd windows to be centred on the voxel grid.
        side += round(size * multiple) % 2
        if side > min(plane.shape):
            continue
        axis = np.arange(side) - (side - 1) / 2
        offsets = np.stack(np.meshgrid(*[axis] * plane.ndim, indexing="ij"))
        scale = _local_deviation(plane, side)
        valid = tuple(slice(n - side + 1) for n in plane.shape)
        for name, draw in templates.items():
            for mask in _along_every_axis(draw(offsets, size * multiple)):
                mask = mask - mask.mean()
                norm = np.linalg.norm(mask)
                if norm < 1e-9:
                    continue
                product = spectrum * np.fft.rfftn(mask, padded, axes).conj()
                found = np.fft.irfftn(product, padded, axes)[valid] / (norm * scale)
                best = min(float(np.abs(found).max()), 1.0)
                if best > correlation[name]:
                    correlation[name], sizes[name] = best, size * multiple
    return Match(correlation, sizes)


def _along_every_axis(mask: np.ndarray) -> list[np.ndarray]:
    """A mask with its first axis along each axis of the grid, as far as that makes a difference."""
    different: list[np.ndarray] = []
    for axis in range(mask.ndim):
        turned = np.swapaxes(mask, 0, axis)
        if not any(np.allclose(turned, other) for other in different):
            different.append(turned)
    return different


def _local_deviation(plane: np.ndarray, side: int) -> np.ndarray:
    """Root of the sum of squared deviations from the mean, in every window of a side."""
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
