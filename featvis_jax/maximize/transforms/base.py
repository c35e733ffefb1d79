"""What a transform made by this package knows about itself.

Every plain function ``(key, image, step) -> image`` is a transform. Those that the factories of
this package return are `DescribedTransform`: the same function, which also states its name and
options for the record of a run, whether a gradient can pass through it, and, where it only moves
voxels about, how it draws the affine map that does so.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from featvis_jax.types import Image, Key, Step, Transform

__all__ = [
    "AffineMap",
    "DescribedTransform",
    "DrawAffine",
    "Geometry",
    "describe",
    "is_differentiable",
    "is_identity",
    "without_gradient",
]


# Full precision: an accelerator's default would round the map to 8 to 10 bits.
_product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


class AffineMap(NamedTuple):
    """Where each voxel of the output is read from.

    With c the centre of the grid, ``(n - 1) / 2`` along each axis, the output at voxel y is the
    input at ``matrix @ (y - c) + offset + c``.

    Attributes:
      matrix: Linear part, shape ``(rank, rank)``.
      offset: Shift in voxels, shape ``(rank,)``.
    """

    matrix: Float[Array, "rank rank"]
    offset: Float[Array, " rank"]

    def after(self, earlier: "AffineMap") -> "AffineMap":
        """The map of this transform applied to the result of an earlier one."""
        return AffineMap(
            _product(earlier.matrix, self.matrix),
            _product(earlier.matrix, self.offset) + earlier.offset,
        )

    def inverse(self) -> "AffineMap":
        """The map that undoes this one."""
        inverse = jnp.linalg.inv(self.matrix)
        return AffineMap(inverse, -_product(inverse, self.offset))


DrawAffine = Callable[[Key, tuple[int, ...]], AffineMap]
"""Draws the map of one application: ``(key, spatial shape) -> AffineMap``."""


class Geometry(NamedTuple):
    """How a geometric transform draws its map, and how it wants to be resampled.

    Attributes:
      draw: ``(key, spatial shape) -> AffineMap``.
      interpolation: "nearest", "linear" or "cubic"; None where the map lands on voxels and any
        of them gives the same image.
      fill: The value outside the image; None where nothing outside is ever read.
      diagonal: Whether the linear part is diagonal, so that axes can be resampled one by one.
      stretch: Bound on how much the map enlarges any length; 1 for shifts and rotations.
    """

    draw: DrawAffine
    interpolation: str | None
    fill: float | None
    diagonal: bool
    stretch: float = 1.0


@dataclasses.dataclass(frozen=True)
class DescribedTransform:
    """A transform that can say what it is.

    Two are equal when they were made by the same factory with equal options, whatever the
    identity of the function inside, so that they serve as static arguments of `jax.jit`.

    Attributes:
      name: Name of the factory.
      options: The factory's options, by name, as hashable values.
      apply: The transform itself.
      differentiable: Whether a useful gradient with respect to the image exists.
      parts: The transforms that a combinator holds, in order.
      geometry: How the affine map is drawn, for those that only move voxels about.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    apply: Callable[[Key, Image, Step], Image] = dataclasses.field(compare=False, repr=False)
    differentiable: bool = True
    parts: tuple[Transform, ...] = ()
    geometry: Geometry | None = dataclasses.field(default=None, compare=False, repr=False)

    def __call__(self, key: Key, image: Image, step: Step) -> Image:
        """Apply the transform to one unbatched image."""
        return self.apply(key, image, step)

    def __str__(self) -> str:
        """The description, for messages."""
        return self.description

    @property
    def description(self) -> str:
        """The call that makes this transform, for the record of a run."""
        parts = [describe(part) for part in self.parts]
        options = [f"{name}={_describe_value(value)}" for name, value in self.options]
        return f"{self.name}({', '.join(parts + options)})"


def describe(transform: Transform) -> str:
    """Names a transform, and its options where it states them.

    Args:
      transform: Any transform.

    Returns:
      For a transform of this package the call that makes it; for any other function its name.

    Example:
      >>> from featvis_jax.maximize.transforms import chain, clip
      >>> describe(chain(clip(high=0.6)))
      'chain(clip(low=0.0, high=0.6))'
    """
    if isinstance(transform, DescribedTransform):
        return transform.description
    return _describe_value(transform)


def is_differentiable(transform: Transform) -> bool:
    """Tell whether a gradient with respect to the image passes through a transform.

    Combinators are looked into: they have a gradient when all their parts have one. A plain
    function states nothing and is taken at its word, as JAX would differentiate it.

    Args:
      transform: Any transform.

    Returns:
      False when the transform, or one inside it, is declared to have no useful gradient.

    Example:
      >>> from featvis_jax.maximize.transforms import chain, clip, every, median
      >>> is_differentiable(chain(clip(), every(50, median())))
      False
    """
    if isinstance(transform, DescribedTransform):
        return transform.differentiable and all(map(is_differentiable, transform.parts))
    return True


def is_identity(transform: Transform) -> bool:
    """Tell whether a transform is known to do nothing, as a chain of nothing does.

    Args:
      transform: Any transform.

    Returns:
      True for `identity()` and for combinators that hold nothing else.

    Example:
      >>> from featvis_jax.maximize.transforms import chain, clip, identity
      >>> is_identity(chain(identity())), is_identity(chain(clip()))
      (True, False)
    """
    if not isinstance(transform, DescribedTransform):
        return False
    if transform.name == "chain" or transform.parts:
        return all(map(is_identity, transform.parts))
    return transform.name == "identity"


def without_gradient(name: str, function: Callable[[Image], Image]) -> Callable[[Image], Image]:
    """Make differentiation of a function an error that says what to do instead.

    Selections and thresholds have a derivative almost everywhere, which says nothing about what
    the function does; a silent one would send an ascent anywhere.
    """
    guarded = jax.custom_jvp(function)

    @guarded.defjvp
    def refuse(primals: tuple[Image], tangents: tuple[Image]) -> NoReturn:
        del primals, tangents
        raise ValueError(
            f"{name} has no useful gradient, but the gradient through it was asked for; "
            "expected it in the projection slot (after the update) and not in the robustness "
            "slot (before the network); move it there, or use total_variation or gaussian_blur"
        )

    return guarded


def _describe_value(value: Any) -> str:
    if callable(value) and not isinstance(value, DescribedTransform):
        return getattr(value, "__name__", type(value).__name__)
    return repr(value)
