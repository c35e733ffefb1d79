"""Names of layers, inside a program."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from featvis_jax.nn.tokens import Tokens

MARK = core.Primitive("layer")
"""The identity, with a layer's name and what else is known of it."""

NAME = "name"
"""The primitive of `jax.ad_checkpoint.checkpoint_name`, which marks a layer too."""


def mark(
    value: Array,
    name: str,
    *,
    operator: str = "",
    has_weights: bool = False,
    tokens: Tokens | None = None,
) -> Array:
    """Call a value a layer.

    Args:
      value: ``(*spatial, channels)``, or with a batch of one image in front.
      name: The layer's name. Where several values have the same, the second is ``NAME@2``.
      operator: What makes it, such as a module's class.
      has_weights: Whether that has parameters.
      tokens: Which elements of a sequence are places of the image, where that is known.

    Returns:
      The value.
    """
    known = {"operator": operator, "has_weights": has_weights, "tokens": tokens}
    return MARK.bind(value, name=name, lanes=0, **known)


def is_mark(equation: core.JaxprEqn) -> bool:
    """Whether an equation gives its result a name."""
    return equation.primitive.name in (MARK.name, NAME)


def _in_lanes(operands: Any, axes: Any, *, lanes: int, **parameters: Any) -> Any:
    """Under `jax.vmap`: the new axis in front, and counted."""
    (value,), (axis,) = operands, axes
    return MARK.bind(jnp.moveaxis(value, axis, 0), lanes=lanes + 1, **parameters), 0


MARK.def_impl(lambda value, **_: value)
MARK.def_abstract_eval(lambda value, **_: value)
mlir.register_lowering(MARK, lambda _, value, **__: [value])
ad.deflinear2(MARK, lambda cotangent, _, **__: [cotangent])
batching.primitive_batchers[MARK] = _in_lanes
