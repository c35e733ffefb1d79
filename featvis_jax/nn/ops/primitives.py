"""Operations that JAX transforms like its own, computed in one way on CPU and in another elsewhere.

A function that picks its implementation with `jax.lax.platform_dependent` can have derivatives of
its own in one mode alone (`jax.custom_vjp`, `jax.custom_jvp`). A primitive has them in both and of
any order, as long as its derivatives are primitives too, as those of a linear operation are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend import core
from jax.interpreters import batching, mlir

Implementation = Callable[..., Any]
"""Of one batch: ``(*operands, **parameters) -> result``, or a tuple of results."""


def define(
    name: str,
    everywhere: Implementation,
    *,
    on_cpu: Implementation,
    multiple_results: bool = False,
) -> core.Primitive:
    """Make a primitive, to be given its derivatives and its rule for batches.

    Operands may have `lanes` axes in front, the same for all: the operation is done for each lane.

    Args:
      name: Of the primitive.
      everywhere: What it computes, on any device.
      on_cpu: The same, for CPU.
      multiple_results: Whether it returns a tuple.
    """
    primitive = core.Primitive(name)
    primitive.multiple_results = multiple_results

    def shapes(*operands: Any, lanes: int, **parameters: Any) -> Any:
        found = jax.eval_shape(_for_lanes(everywhere, lanes, parameters), *operands)
        avals = [ShapedArray(each.shape, each.dtype) for each in jax.tree.leaves(found)]
        return avals if multiple_results else avals[0]

    primitive.def_abstract_eval(shapes)
    primitive.def_impl(_eagerly(primitive))
    for implementation, platform in ((everywhere, None), (on_cpu, "cpu")):

        def lowered(
            *operands: Any,
            lanes: int,
            implementation: Implementation = implementation,
            **parameters: Any,
        ) -> Any:
            return _for_lanes(implementation, lanes, parameters)(*operands)

        rule = mlir.lower_fun(lowered, multiple_results=multiple_results)
        mlir.register_lowering(primitive, rule, platform=platform)
    return primitive


def _for_lanes(implementation: Implementation, lanes: int, parameters: dict[str, Any]) -> Any:
    function = functools.partial(implementation, **parameters)
    for _ in range(lanes):
        function = jax.vmap(function)
    return function


def _eagerly(primitive: core.Primitive) -> Implementation:
    @functools.cache
    def compiled(parameters: tuple[tuple[str, Any], ...]) -> Any:
        return jax.jit(functools.partial(primitive.bind, **dict(parameters)))

    def run(*operands: Any, **parameters: Any) -> Any:
        return compiled(tuple(sorted(parameters.items())))(*operands)

    return run


def batch_by_folding(
    primitive: core.Primitive, *, foldable: Callable[[Sequence[bool]], bool] = lambda _: True
) -> None:
    """Have `jax.vmap` fold its axis into the batch, the first axis of operands and results.

    Args:
      primitive: The primitive.
      foldable: Whether those of its operands that have the axis allow that; of others each index
        is a lane of its own. An operand that has none and must not be folded stays as it is.
    """

    def rule(operands: Sequence[Any], axes: Sequence[int | None], *, lanes: int, **parameters: Any):
        (size,) = {x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None}
        batched = [axis is not None for axis in axes]
        moved = [
            x if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(operands, axes, strict=True)
        ]
        if foldable(batched):
            # Between the lanes, which stay in front, and the batch.
            folded = [
                _fold(jnp.moveaxis(x, 0, lanes), lanes) if is_batched else x
                for x, is_batched in zip(moved, batched, strict=True)
            ]
            found = primitive.bind(*folded, lanes=lanes, **parameters)
            unfolded = jax.tree.map(
                lambda y: jnp.moveaxis(
                    y.reshape(*y.shape[:lanes], size, -1, *y.shape[lanes + 1 :]), lanes, 0
                ),
                found,
            )
        else:
            everyone = [
                x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
                for x, is_batched in zip(moved, batched, strict=True)
            ]
            unfolded = primitive.bind(*everyone, lanes=lanes + 1, **parameters)
        return unfolded, jax.tree.map(lambda _: 0, unfolded)

    batching.primitive_batchers[primitive] = rule


def _fold(array: Any, axis: int) -> Any:
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
