"""Transforms that change the size of the image and bring it back onto its grid.

Shapes are fixed under `jax.jit`, so what comes out has the shape of what went in. Grids of
different size cover the same field of view: their outer voxel faces coincide, not the centres of
their outer voxels.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from featvis_jax.maximize.transforms.base import DescribedTransform
from featvis_jax.maximize.transforms.checks import (
    check_choice,
    check_integer,
    check_number,
    check_numbers,
    check_one_of,
)
from featvis_jax.maximize.transforms.interpolation import axis_weights, resample_axes
from featvis_jax.maximize.transforms.kernels import INTERPOLATIONS, Interpolation
from featvis_jax.types import Image, Key, Step

__all__ = ["draw_crop", "random_resized_crop", "resize"]

_TRIES = 10


def resize(
    *,
    size: int | Sequence[int] | None = None,
    factor: float | None = None,
    interpolation: Interpolation = "linear",
    antialias: bool = False,
    onto_grid: str = "resample",
    fill: float = 0.0,
) -> DescribedTransform:
    """Resize the image to a given size, and bring it back onto its grid.

    Args:
      size: Number of voxels along each axis, or one number for all axes.
      factor: Instead of it, the size as a multiple of each side, above 0.
      interpolation: "nearest", "linear" or "cubic".
      antialias: Whether to average while making the image smaller, instead of skipping voxels.
      onto_grid: "resample" resizes a second time, to the old size, and keeps the scale of the
        image; "crop" cuts off what is too large, or pads, about the centre, so that the image
        has been enlarged or made smaller.
      fill: Intensity of the padding where ``onto_grid="crop"`` makes the image smaller.

    Returns:
      A transform of images of any rank; of one rank where `size` names every axis.

    Raises:
      ValueError: Where an option is out of range, or not one of `size` and `factor` is given;
        and for images of another rank than `size`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> coarse = resize(factor=0.5, interpolation="nearest")
      >>> coarse(jax.random.key(0), jnp.arange(4.0).reshape(4, 1), 0).ravel().tolist()
      [1.0, 1.0, 3.0, 3.0]
    """
    check_one_of("resize", size=size, factor=factor)
    check_choice("resize", "interpolation", interpolation, INTERPOLATIONS)
    check_choice("resize", "onto_grid", onto_grid, ("resample", "crop"))
    fill = check_number("resize", "fill", fill)
    if size is None:
        multiple = factor = check_number("resize", "factor", factor, low=0, open_low=True)

        def target(shape: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(max(1, round(multiple * side)) for side in shape)

    else:
        size = (size,) if isinstance(size, int) else tuple(size)
        sides = tuple(check_integer("resize", "size", side, low=1) for side in size)

        def target(shape: tuple[int, ...]) -> tuple[int, ...]:
            if len(sides) not in (1, len(shape)):
                raise ValueError(
                    f"resize: size={sides} for an image with {len(shape)} spatial axes; expected "
                    "one number, or one for each axis"
                )
            return sides * len(shape) if len(sides) == 1 else sides

    def apply(key: Key, image: Image, step: Step) -> Image:
        del key, step
        shape = image.shape[:-1]
        sides = target(shape)
        resized = _to_size(image, sides, interpolation, antialias)
        if onto_grid == "resample":
            return _to_size(resized, shape, interpolation, antialias)
        widths = [_centred(old, new) for old, new in zip(shape, sides, strict=True)]
        return lax.pad(resized, jnp.asarray(fill, image.dtype), [*widths, (0, 0, 0)])

    options = {
        "size": size,
        "factor": factor,
        "interpolation": interpolation,
        "antialias": antialias,
        "onto_grid": onto_grid,
        "fill": fill,
    }
    given = tuple((option, value) for option, value in options.items() if value is not None)
    return DescribedTransform("resize", given, apply)


def random_resized_crop(
    *,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "linear",
) -> DescribedTransform:
    r"""Cut a random box out of the image and enlarge it to the whole grid.

    In 2-D the box has an area of U(`area`) times the image's, its width over its height is
    log-uniform within `ratio`, and its place is uniform. In 3-D, with V voxels,
    :math:`side_i = (V U)^{1/3} e^{e_i - \bar e}` with :math:`e_i` uniform on half the logarithmic
    range of `ratio`, so that of any two sides one is at most sqrt(largest / smallest ratio) times
    the other: 4/3 by default, as in 2-D. Of ten boxes the first that fits is taken, and if none
    does, the largest central box within `ratio`.

    Args:
      area: Smallest and largest part of the image's area or volume, in (0, 1].
      ratio: Smallest and largest ratio of the sides, above 0.
      interpolation: "nearest", "linear" or "cubic"; nothing beyond the box is read.

    Returns:
      A transform of 2-D and 3-D images.

    Raises:
      ValueError: Where an option is out of range; and for images that are neither 2-D nor 3-D.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> zoomed = random_resized_crop(area=(0.25, 0.25))
      >>> ramp = jnp.arange(16.0).reshape(16, 1, 1) * jnp.ones((1, 16, 1))
      >>> image = zoomed(jax.random.key(0), ramp, 0)
      >>> bool(image.max() - image.min() < 10)
      True
    """
    name = "random_resized_crop"
    check_choice(name, "interpolation", interpolation, INTERPOLATIONS)
    area = _check_range(name, "area", area, high=1.0)
    ratio = _check_range(name, "ratio", ratio, high=math.inf)

    def apply(key: Key, image: Image, step: Step) -> Image:
        del step
        shape = image.shape[:-1]
        start, sides = draw_crop(key, shape, area, ratio)
        weights = []
        for axis, length in enumerate(shape):
            places = (jnp.arange(length, dtype=jnp.float32) + 0.5) / length
            coordinates = start[axis] + places * sides[axis] - 0.5
            limits = (start[axis], start[axis] + sides[axis] - 1)
            limits = (limits[0].astype(jnp.int32), limits[1].astype(jnp.int32))
            weights.append(
                axis_weights(coordinates, length, interpolation=interpolation, limits=limits)
            )
        return resample_axes(image, weights)

    options = (("area", area), ("ratio", ratio), ("interpolation", interpolation))
    return DescribedTransform(name, options, apply)


def draw_crop(
    key: Key, shape: tuple[int, ...], area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Float[Array, " rank"], Float[Array, " rank"]]:
    """Draw the box of a random resized crop.

    Args:
      key: Random key.
      shape: Sides of the image, two or three.
      area: Smallest and largest part of the image's area or volume.
      ratio: Smallest and largest ratio of the sides.

    Returns:
      The first voxel of the box and its sides, as whole numbers in floats.

    Raises:
      ValueError: For images that are neither 2-D nor 3-D.
    """
    rank = len(shape)
    if rank not in (2, 3):
        raise ValueError(
            f"random_resized_crop: an image with {rank} spatial axes came; expected 2 or 3"
        )
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    lengths = jnp.array(shape, jnp.float32)
    content = math.prod(shape) * jax.random.uniform(
        area_key, (_TRIES, 1), minval=area[0], maxval=area[1]
    )
    logarithms = jax.random.uniform(
        ratio_key, (_TRIES, rank), minval=math.log(ratio[0]), maxval=math.log(ratio[1])
    )
    # Two sides have one ratio, width over height; three have three, each of two draws.
    logarithms = logarithms.at[:, 0].set(0) if rank == 2 else logarithms / 2
    logarithms -= logarithms.mean(axis=1, keepdims=True)
    tries = jnp.round(content ** (1 / rank) * jnp.exp(logarithms))
    fits = _fits(tries, lengths)
    sides = jnp.where(fits.any(), tries[jnp.argmax(fits)], _central_sides(shape, ratio))
    free = lengths - sides
    start = jnp.floor(jax.random.uniform(place_key, (rank,)) * (free + 1))
    # The product of two floats may round up to the excluded end.
    start = jnp.where(fits.any(), jnp.minimum(start, free), jnp.round(free / 2))
    return start, sides


def _fits(
    sides: Float[Array, "tries rank"], lengths: Float[Array, " rank"]
) -> Bool[Array, " tries"]:
    return ((sides >= 1) & (sides <= lengths[None])).all(axis=1)


def _central_sides(shape: tuple[int, ...], ratio: tuple[float, float]) -> Float[Array, " rank"]:
    """Sides of the largest box at the centre whose ratios of sides lie within the range."""
    if len(shape) == 2:
        height, width = shape
        sides = (min(height, width / ratio[0]), min(width, height * ratio[1]))
    else:
        widest = math.sqrt(ratio[1] / ratio[0])
        sides = tuple(min(side, min(shape) * widest) for side in shape)
    return jnp.array([max(1, round(side)) for side in sides], jnp.float32)


def _to_size(
    image: Image, sides: tuple[int, ...], interpolation: str, antialias: bool
) -> Float[Array, "*resized channels"]:
    return jax.image.resize(image, (*sides, image.shape[-1]), interpolation, antialias=antialias)


def _centred(old: int, new: int) -> tuple[int, int, int]:
    """Padding, negative where it crops, that brings a side from its new to its old length."""
    before = (old - new) // 2
    return before, old - new - before, 0


def _check_range(
    factory: str, name: str, values: tuple[float, float], *, high: float
) -> tuple[float, float]:
    checked = check_numbers(factory, name, values, low=0, high=high, open_low=True)
    if len(checked) != 2 or checked[0] > checked[1]:
        raise ValueError(f"{factory}: {name}={values!r}; expected the smallest and the largest")
    return checked[0], checked[1]
