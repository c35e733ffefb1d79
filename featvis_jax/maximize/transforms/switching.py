r"""The switching bilateral filter of Lin, Tsai and Chiu, for slices and volumes.

A detector compares each voxel with a reference median and calls it clean, Gaussian noise or an
impulse; only noisy voxels are replaced. The reference is chosen among the medians of the window's
overlapping orthants, four quadrants in 2-D and eight octants in 3-D, so that edges survive.

In d dimensions the 2^d orthant medians at a voxel are one median field, over boxes of side N + 1,
read at the 2^d places N/2 voxels away along each axis.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from featvis_jax.maximize.transforms.base import DescribedTransform, without_gradient
from featvis_jax.maximize.transforms.checks import check_integer, check_number
from featvis_jax.maximize.transforms.windows import (
    Mask,
    Padded,
    box_median,
    offsets,
    pad_edges,
    view,
)
from featvis_jax.types import Image, Key, Step

__all__ = ["switching_bilateral"]

_SIGMA_SPACE = 1.0
_SIGMA_SPACE_AT_EDGES = 3.0
_SLABS = 8
_THINNEST_SLAB = 16


class _Constants(NamedTuple):
    half_width: int
    edge_threshold: float
    impulse_threshold: float
    noise_threshold: float
    sigma_intensity: float


def switching_bilateral(
    *,
    half_width: int = 2,
    edge_threshold: float = 33 / 255,
    impulse_threshold: float = 25 / 255,
    noise_threshold: float = 5 / 255,
    sigma_intensity: float = 40 / 255,
) -> DescribedTransform:
    r"""Replace noisy voxels by a bilateral average about a reference median.

    Let lo and hi be the two middle orthant medians. Where :math:`hi - lo > \rho` there is a strong
    edge, and the reference is the one of them nearer to the mean along the edge: of the window's
    central line (2-D) or plane (3-D), its centre left out, if the orthants below
    :math:`(lo + hi)/2` fill one half of the window, and else of the diagonal neighbours. Elsewhere
    the reference is :math:`(lo + hi)/2`. A voxel x with :math:`|x - ref| \ge T_1` is an
    impulse, with :math:`\ge T_2` Gaussian noise. Noisy voxels become
    :math:`\sum w f / \sum w` over the window, with

    .. math:: w = e^{-|s|^2 / 2 \sigma_S^2} e^{-(I - f)^2 / 2 \sigma_R^2}

    I = ref for an impulse and x for noise; :math:`\sigma_S` = 3 voxels at strong edges, else 1.

    It has no useful gradient, as its thresholds have none. Use it in the projection slot;
    differentiating it raises. Large images are filtered slab by slab to save memory.

    Args:
      half_width: N, even, at least 2; the window has 2N + 1 voxels a side.
      edge_threshold: Rho, intensity contrast of a strong edge, above 0.
      impulse_threshold: T1 in units of intensity, at least `noise_threshold`.
      noise_threshold: T2 in units of intensity, at least 0.
      sigma_intensity: sigma_R in units of intensity, above 0.

    Returns:
      A transform of 2-D and 3-D images on [0, 1]; the authors' constants, on [0, 255], were
      divided by 255.

    Raises:
      ValueError: Where an option is out of range; and for images that are neither 2-D nor 3-D.

    References:
      Lin, Tsai, Chiu, Switching bilateral filter with a texture/noise detector for universal
      noise removal, ICASSP 2010, https://doi.org/10.1109/ICASSP.2010.5495475

    Example:
      >>> import jax, jax.numpy as jnp
      >>> impulse = jnp.full((9, 9, 1), 0.4).at[4, 4].set(1.0)
      >>> filtered = switching_bilateral()(jax.random.key(0), impulse, 0)
      >>> round(float(filtered[4, 4, 0]), 6)
      0.400077
    """
    name = "switching_bilateral"
    half_width = check_integer(name, "half_width", half_width, low=2)
    if half_width % 2:
        raise ValueError(
            f"{name}: half_width={half_width} is odd; expected an even integer, so that the "
            "orthants' boxes of half_width + 1 voxels have a centre"
        )
    noise_threshold = check_number(name, "noise_threshold", noise_threshold, low=0)
    constants = _Constants(
        half_width,
        check_number(name, "edge_threshold", edge_threshold, low=0, open_low=True),
        check_number(name, "impulse_threshold", impulse_threshold, low=noise_threshold),
        noise_threshold,
        check_number(name, "sigma_intensity", sigma_intensity, low=0, open_low=True),
    )

    def filtered(image: Image) -> Image:
        if image.ndim not in (3, 4):
            raise ValueError(
                f"{name}: an image with {image.ndim - 1} spatial axes came; expected 2 or 3"
            )
        padded = pad_edges(image, half_width)
        return _by_slabs(lambda part: _filter(part, constants), padded, image.shape, half_width)

    guarded = without_gradient(name, filtered)

    def apply(key: Key, image: Image, step: Step) -> Image:
        del key, step
        return guarded(image)

    options = tuple(constants._asdict().items())
    return DescribedTransform(name, options, apply, differentiable=False)


def _by_slabs(
    function: Callable[[Padded], Image], padded: Padded, shape: tuple[int, ...], margin: int
) -> Image:
    """Apply a local function to slabs of an image, whose temporaries are then small."""
    thickness = min(shape[0], max(_THINNEST_SLAB, -(-shape[0] // _SLABS)))

    def fill_slab(i: Int[Array, ""], result: Image) -> Image:
        # The last slab moves back to fit and computes some voxels a second time.
        start = jnp.minimum(i * thickness, shape[0] - thickness)
        slab = lax.dynamic_slice_in_dim(padded, start, thickness + 2 * margin, axis=0)
        return lax.dynamic_update_slice_in_dim(result, function(slab), start, axis=0)

    count = -(-shape[0] // thickness)
    return lax.fori_loop(0, count, fill_slab, jnp.zeros(shape, padded.dtype))


def _filter(padded: Padded, constants: _Constants) -> Image:
    """Filter an image that comes with a margin of one half-width."""
    margin = constants.half_width
    rank = padded.ndim - 1
    shape = tuple(size - 2 * margin for size in padded.shape[:-1])

    def at(offset: tuple[int, ...]) -> Image:
        return view(padded, shape, tuple(margin + i for i in offset))

    image = at((0,) * rank)
    # Barriers keep XLA from computing these fields anew in each of their many uses.
    reference, strong_edge = lax.optimization_barrier(_reference(padded, constants))
    difference = jnp.abs(image - reference)
    impulse = difference >= constants.impulse_threshold
    noisy = difference >= constants.noise_threshold
    centre = lax.optimization_barrier(jnp.where(impulse, reference, image))

    weighted, weights = jnp.zeros_like(image), jnp.zeros_like(image)
    for offset in offsets(rank, margin):
        squared = sum(i * i for i in offset)
        nearness = jnp.where(
            strong_edge,
            jnp.asarray(math.exp(-squared / (2 * _SIGMA_SPACE_AT_EDGES**2)), image.dtype),
            jnp.asarray(math.exp(-squared / (2 * _SIGMA_SPACE**2)), image.dtype),
        )
        other = at(offset)
        weight = nearness * jnp.exp(-((centre - other) ** 2) / (2 * constants.sigma_intensity**2))
        weighted += weight * other
        weights += weight
    return jnp.where(noisy, weighted / weights, image)


def _reference(padded: Padded, constants: _Constants) -> tuple[Image, Mask]:
    """The reference median at each voxel, and whether a strong edge runs through its window."""
    margin = constants.half_width
    rank = padded.ndim - 1
    shape = tuple(size - 2 * margin for size in padded.shape[:-1])
    field = lax.optimization_barrier(box_median(padded, margin + 1))
    sides = list(itertools.product((0, 1), repeat=rank))
    medians = [view(field, shape, tuple(side * margin for side in place)) for place in sides]

    ranked = _sort(medians)
    low, high = lax.optimization_barrier((ranked[len(ranked) // 2 - 1], ranked[len(ranked) // 2]))
    # The authors also ask for this contrast between the extreme medians; it is never smaller.
    strong_edge = high - low > constants.edge_threshold
    middle = (low + high) / 2
    below = dict(zip(sides, (median < middle for median in medians), strict=True))

    def mean(window: list[tuple[int, ...]]) -> Image:
        total = jnp.zeros_like(low)
        for offset in window:
            total += view(padded, shape, tuple(margin + i for i in offset))
        return total / len(window)

    along_edge = mean(list(itertools.product((-1, 1), repeat=rank)))
    for axis in range(rank):
        first = [below[place] for place in sides if place[axis] == 0]
        second = [below[place] for place in sides if place[axis] == 1]
        carries_edge = (_all(first) & ~_any(second)) | (_all(second) & ~_any(first))
        centre_line = [o for o in offsets(rank, margin) if o[axis] == 0 and any(o)]
        along_edge = jnp.where(carries_edge, mean(centre_line), along_edge)
    nearer = jnp.where(jnp.abs(low - along_edge) <= jnp.abs(high - along_edge), low, high)
    return jnp.where(strong_edge, nearer, middle), strong_edge


def _sort(images: list[Image]) -> list[Image]:
    """Sort images voxel by voxel (odd-even mergesort, for a power of two of them)."""
    if len(images) == 1:
        return images
    half = len(images) // 2
    return _merge(_sort(images[:half]) + _sort(images[half:]))


def _merge(images: list[Image]) -> list[Image]:
    """Merge two sorted halves."""
    if len(images) == 2:
        return [jnp.minimum(*images), jnp.maximum(*images)]
    even, odd = _merge(images[::2]), _merge(images[1::2])
    merged = [even[0]]
    for left, right in zip(odd[:-1], even[1:], strict=True):
        merged += [jnp.minimum(left, right), jnp.maximum(left, right)]
    return [*merged, odd[-1]]


def _all(masks: list[Mask]) -> Mask:
    return functools.reduce(jnp.logical_and, masks)


def _any(masks: list[Mask]) -> Mask:
    return functools.reduce(jnp.logical_or, masks)
