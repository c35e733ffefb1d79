"""What XLA's CPU backend must not fuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def apart(compute: Callable[..., Any], *operands: Array) -> Any:
    """`compute`, kept out of the loops of whatever reads its results.

    XLA's CPU backend would otherwise compute a pooling's input once for every tap of its window. It
    drops optimization barriers before it fuses, but never fuses across a conditional, so this is
    one, on something that is never true and that no compiler can know to be.
    """
    results = jax.eval_shape(compute, *operands)
    first = operands[0]
    never = lax.slice(first, (0,) * first.ndim, (1,) * first.ndim).reshape(()) < -jnp.inf
    return lax.cond(
        never,
        lambda *_: jax.tree.map(lambda result: jnp.zeros(result.shape, result.dtype), results),
        compute,
        *operands,
    )
