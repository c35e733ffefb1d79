"""Transforms made of transforms: in sequence, now and then, or from some step on.

Steps are counted from 0: `step` is the index of the step just taken. `every(50, t)` fires when
``(step + 1) % 50 == 0``, after 50, 100, ... finished steps. The step must stay a scalar under
`jax.vmap` (``in_axes=None``); only then does XLA run an expensive transform on its own steps and
nothing on the others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from featvis_jax.maximize.transforms.base import (
    AffineMap,
    DescribedTransform,
    DrawAffine,
    Geometry,
)
from featvis_jax.maximize.transforms.checks import check_integer, check_number
from featvis_jax.maximize.transforms.interpolation import resample
from featvis_jax.types import Image, Key, Step, Transform

__all__ = ["chain", "every", "from_step", "identity", "sometimes"]


def identity() -> DescribedTransform:
    """Return the image unchanged.

    Returns:
      A transform of any image.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> float(identity()(jax.random.key(0), jnp.full((2, 2, 1), 0.5), 0).sum())
      2.0
    """
    return DescribedTransform("identity", (), _keep)


class Group(NamedTuple):
    """Positions in a chain that run as one; `geometry` is their composed map, if there is one."""

    positions: tuple[int, ...]
    geometry: Geometry | None


def chain(*transforms: Transform) -> DescribedTransform:
    """Apply transforms in sequence, each with a key of its own.

    The transform at position i gets ``fold_in(key, i)``, so that appending one leaves the draws of
    those before it unchanged. Neighbours that only move voxels about, and agree on interpolation
    and fill, are composed into one affine map and resampled once: less blur, less time, and what
    one of them moves out of the grid comes back when the next moves it in again.

    Args:
      *transforms: Any transforms; none makes the identity.

    Returns:
      A transform of the images that all of them take.

    Raises:
      ValueError: Where one of them is not callable.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from featvis_jax.maximize.transforms import clip, noise
      >>> wobble = chain(noise(standard_deviation=0.1), clip(high=0.6))
      >>> bool(wobble(jax.random.key(0), jnp.full((4, 4, 1), 0.6), 0).max() <= 0.6)
      True
    """
    for position, transform in enumerate(transforms):
        _check_callable(f"chain: transform {position}", transform)
    groups = fused(transforms)

    def apply(key: Key, image: Image, step: Step) -> Image:
        for positions, geometry in groups:
            if geometry is None or len(positions) == 1:
                (position,) = positions
                image = transforms[position](jax.random.fold_in(key, position), image, step)
            else:
                image = resample(image, geometry.draw(key, image.shape[:-1]), geometry)
        return image

    geometry = groups[0].geometry if len(groups) == 1 else None
    return DescribedTransform("chain", (), apply, parts=transforms, geometry=geometry)


def every(period: int, transform: Transform) -> DescribedTransform:
    """Apply a transform after every `period` finished steps, and nothing in between.

    It fires when ``(step + 1) % period == 0``, and otherwise skips the work (`jax.lax.cond`), also
    under `jax.vmap` over images and keys as long as the step is not batched.

    Args:
      period: Number of steps from one application to the next, at least 1.
      transform: What to apply.

    Returns:
      A transform of the images that `transform` takes.

    Raises:
      ValueError: Where the period is no positive integer, or `transform` is not callable.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from featvis_jax.maximize.transforms import clip
      >>> image = jnp.ones((2, 2, 1))
      >>> sometimes_dark = every(50, clip(high=0.25))
      >>> [float(sometimes_dark(jax.random.key(0), image, step).max()) for step in (48, 49, 50)]
      [1.0, 0.25, 1.0]
    """
    period = check_integer("every", "period", period, low=1)
    _check_callable("every: transform", transform)

    def apply(key: Key, image: Image, step: Step) -> Image:
        fires = (jnp.asarray(step) + 1) % period == 0
        return lax.cond(fires, transform, _keep, key, image, step)

    return DescribedTransform("every", (("period", period),), apply, parts=(transform,))


def from_step(first: int, transform: Transform) -> DescribedTransform:
    """Apply a transform at step `first` and at every later one.

    Args:
      first: Index of the first step, counted from 0, that the transform applies to.
      transform: What to apply.

    Returns:
      A transform of the images that `transform` takes.

    Raises:
      ValueError: Where the first step is negative, or `transform` is not callable.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from featvis_jax.maximize.transforms import clip
      >>> late = from_step(2, clip(high=0.25))
      >>> [float(late(jax.random.key(0), jnp.ones((2, 2, 1)), step).max()) for step in (1, 2)]
      [1.0, 0.25]
    """
    first = check_integer("from_step", "first", first, low=0)
    _check_callable("from_step: transform", transform)

    def apply(key: Key, image: Image, step: Step) -> Image:
        return lax.cond(jnp.asarray(step) >= first, transform, _keep, key, image, step)

    return DescribedTransform("from_step", (("first", first),), apply, parts=(transform,))


def sometimes(probability: float, transform: Transform) -> DescribedTransform:
    """Apply a transform with a given probability, decided anew for every image and step.

    The decision belongs to the image's key. Under `jax.vmap` over keys both outcomes are therefore
    computed and one is selected: wrap cheap transforms in this, and costly ones in `every`.

    Args:
      probability: Chance of applying the transform, in [0, 1].
      transform: What to apply.

    Returns:
      A transform of the images that `transform` takes.

    Raises:
      ValueError: Where the probability lies outside [0, 1], or `transform` is not callable.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from featvis_jax.maximize.transforms import clip
      >>> never = sometimes(0.0, clip(high=0.25))
      >>> float(never(jax.random.key(0), jnp.ones((2, 2, 1)), 0).max())
      1.0
    """
    probability = check_number("sometimes", "probability", probability, low=0, high=1)
    _check_callable("sometimes: transform", transform)

    def apply(key: Key, image: Image, step: Step) -> Image:
        decision_key, transform_key = jax.random.split(key)
        applies = jax.random.bernoulli(decision_key, probability)
        return lax.cond(applies, transform, _keep, transform_key, image, step)

    options = (("probability", probability),)
    return DescribedTransform("sometimes", options, apply, parts=(transform,))


def _keep(key: Key, image: Image, step: Step) -> Image:
    del key, step
    return image


def _check_callable(what: str, transform: object) -> None:
    if not callable(transform):
        raise ValueError(
            f"{what} is {transform!r}; expected a function (key, image, step) -> image, such as "
            "gaussian_blur(sigma=1.0)"
        )


def fused(transforms: Sequence[Transform]) -> tuple[Group, ...]:
    """Gather neighbours whose affine maps compose; all others stay alone."""
    groups: list[Group] = []
    for position, transform in enumerate(transforms):
        geometry = transform.geometry if isinstance(transform, DescribedTransform) else None
        if geometry is None:
            groups.append(Group((position,), None))
            continue
        geometry = geometry._replace(draw=_draw_with_own_key(geometry, position))
        previous = groups[-1].geometry if groups else None
        if previous is not None and _agree(previous, geometry):
            positions = (*groups.pop().positions, position)
            groups.append(Group(positions, _compose(previous, geometry)))
        else:
            groups.append(Group((position,), geometry))
    return tuple(groups)


def _agree(first: Geometry, second: Geometry) -> bool:
    """Tell whether one resampling does what both ask for."""
    return (
        first.interpolation is None
        or second.interpolation is None
        or first.interpolation == second.interpolation
    ) and (first.fill is None or second.fill is None or first.fill == second.fill)


def _draw_with_own_key(geometry: Geometry, position: int) -> DrawAffine:
    def draw(key: Key, shape: tuple[int, ...]) -> AffineMap:
        return geometry.draw(jax.random.fold_in(key, position), shape)

    return draw


def _compose(first: Geometry, second: Geometry) -> Geometry:
    """Compose two maps, `first` being applied to the image before `second`."""

    def draw(key: Key, shape: tuple[int, ...]) -> AffineMap:
        return second.draw(key, shape).after(first.draw(key, shape))

    return Geometry(
        draw,
        interpolation=first.interpolation or second.interpolation,
        fill=second.fill if first.fill is None else first.fill,
        diagonal=first.diagonal and second.diagonal,
        stretch=first.stretch * second.stretch,
    )
