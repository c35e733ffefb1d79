"""Reading an image through any affine map, with a gradient that is a gather too.

The transpose of a gather is a scatter, which XLA runs one voxel at a time on a CPU and in no fixed
order on a GPU. Here the gradient at a voxel of the input is gathered instead from the few voxels of
the output that can have read it: an order of magnitude faster, and the same bits in every run.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from featvis_jax.maximize.transforms.base import AffineMap
from featvis_jax.maximize.transforms.kernels import SUPPORT, kernel, taps
from featvis_jax.types import Image

__all__ = ["gather_affine"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def gather_affine(image: Image, affine: AffineMap, interpolation: str, stretch: float) -> Image:
    """Read an image, taken to be 0 outside its grid, through an affine map.

    Args:
      image: What to read from.
      affine: Where each voxel of the output is read; it gets no gradient.
      interpolation: "nearest", "linear" or "cubic".
      stretch: Bound on how much the map enlarges any length, 1 for a rotation. It limits where
        the gradient is looked for.

    Returns:
      An image of the same shape and dtype.
    """
    del stretch
    shape = image.shape[:-1]
    first, weights = [], []
    for coordinates in _read_at(affine, shape, _grid(shape)):
        start, tap_weights = taps(coordinates, interpolation)
        first.append(start)
        weights.append(tap_weights)
    rows = image.reshape(math.prod(shape), image.shape[-1])
    total = jnp.zeros_like(image)
    for offsets in itertools.product(range(len(weights[0])), repeat=len(shape)):
        weight = functools.reduce(
            jnp.multiply, (weights[axis][tap] for axis, tap in enumerate(offsets))
        )
        index = [start + tap for start, tap in zip(first, offsets, strict=True)]
        total += _rows_at(rows, index, shape, weight.astype(image.dtype))
    return total


def _gather_forward(
    image: Image, affine: AffineMap, interpolation: str, stretch: float
) -> tuple[Image, AffineMap]:
    return gather_affine(image, affine, interpolation, stretch), affine


def _gather_backward(
    interpolation: str, stretch: float, affine: AffineMap, cotangent: Image
) -> tuple[Image, AffineMap]:
    """Sums, for each voxel of the input, over the voxels of the output that read it.

    Those lie around the voxel's own place in the output, within the image of the kernel's support
    under the inverse map. Its half-width along an axis is at most support sqrt(rank) stretch.
    """
    shape = cotangent.shape[:-1]
    grid = _grid(shape)
    # The small excess keeps rounding errors from dropping a voxel on the border.
    reach = SUPPORT[interpolation] * math.sqrt(len(shape)) * stretch + 1e-3
    first = [jnp.ceil(place - reach) for place in _read_at(affine.inverse(), shape, grid)]
    candidates = range(math.floor(2 * reach) + 1)
    offsets = jnp.array(list(itertools.product(candidates, repeat=len(shape))), jnp.float32)
    rows = cotangent.reshape(math.prod(shape), cotangent.shape[-1])

    def add(total: Image, offset: Float[Array, " rank"]) -> tuple[Image, None]:
        place = [start + offset[axis] for axis, start in enumerate(first)]
        weight = jnp.ones((), affine.matrix.dtype)
        for coordinates, voxel in zip(_read_at(affine, shape, place), grid, strict=True):
            weight *= kernel(coordinates, voxel, interpolation)
        index = [positions.astype(jnp.int32) for positions in place]
        return total + _rows_at(rows, index, shape, weight.astype(rows.dtype)), None

    total, _ = lax.scan(add, jnp.zeros_like(cotangent), offsets)
    return total, jax.tree.map(jnp.zeros_like, affine)


gather_affine.defvjp(_gather_forward, _gather_backward)


def _grid(shape: tuple[int, ...]) -> list[Float[Array, "..."]]:
    return [lax.broadcasted_iota(jnp.float32, shape, axis) for axis in range(len(shape))]


def _read_at(
    affine: AffineMap, shape: tuple[int, ...], voxels: list[Float[Array, "..."]]
) -> list[Float[Array, "..."]]:
    """Where given voxels of the output read the input, one array for each axis."""
    centre = [(size - 1) / 2 for size in shape]
    coordinates = []
    for axis in range(len(shape)):
        position = affine.offset[axis] + centre[axis]
        for other, voxel in enumerate(voxels):
            position = position + affine.matrix[axis, other] * (voxel - centre[other])
        coordinates.append(position)
    return coordinates


def _rows_at(
    rows: Float[Array, "voxels channels"],
    index: list[Int[Array, "..."]],
    shape: tuple[int, ...],
    weight: Float[Array, "..."],
) -> Image:
    """Weighted voxels at an index that may lie outside the grid, where they count as 0."""
    flat = jnp.zeros(shape, jnp.int32)
    for positions, size in zip(index, shape, strict=True):
        weight = jnp.where((positions >= 0) & (positions < size), weight, 0)
        flat = flat * size + jnp.clip(positions, 0, size - 1)
    return weight[..., None] * rows[flat]
