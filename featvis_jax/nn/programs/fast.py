"""Convolutions and poolings of a program by operations that are fast on CPU.

    function  --trace-->  equations  --evaluate-->  equations
                          conv_general_dilated      ops.conv, ops.image_gradient
                          reduce_window_max, _sum   ops.max_pool, ops.sum_pool
                          all others                as they are

The operations are primitives with derivatives of their own, so that what `jax.grad`, `jax.jvp` and
`jax.vmap` make of the new program is fast as well. Lowered for another device than a CPU, they are
XLA's own again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jaxtyping import Array

from featvis_jax.nn import ops
from featvis_jax.nn.ops import Windows
from featvis_jax.nn.programs.evaluate import (
    any_equation,
    as_it_is,
    called,
    closed,
    evaluate,
    inner,
    scanned,
)

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


def fast(function: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """Make a function's convolutions and poolings, and their gradients, fast on CPU.

    What it computes stays what it was, up to rounding, and so do its derivatives: of any order, in
    both modes, under `jax.jit` and `jax.vmap`. Apply it inside of `jax.grad` and not around it: a
    gradient is made of the operations that are there when it is taken. Inside functions with a
    derivative of their own (`jax.custom_jvp`, `jax.custom_vjp`) nothing is replaced.

    Args:
      function: Takes and returns trees of arrays; what else it takes is passed on as it is.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen as nn
      >>> module = nn.Conv(8, (3, 3, 3), strides=2)
      >>> images = jnp.ones((1, 12, 12, 12, 1))
      >>> variables = module.init(jax.random.key(0), images)
      >>> apply = fast(module.apply)
      >>> apply(variables, images).shape
      (1, 6, 6, 6, 8)
      >>> gradient = jax.jit(jax.grad(lambda images: apply(variables, images).sum()))(images)
      >>> gradient.shape
      (1, 12, 12, 12, 1)
    """

    @functools.wraps(function)
    def faster(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        leaves, structure = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

        def of_arrays(*arrays: Array) -> Output:
            given = list(leaves)
            for place, array in zip(places, arrays, strict=True):
                given[place] = array
            inputs, options = jax.tree.unflatten(structure, given)
            return function(*inputs, **options)  # pyright: ignore

        arrays = [leaves[place] for place in places]
        program, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(*arrays)
        return jax.tree.unflatten(jax.tree.structure(shapes), evaluate(program, arrays, apply_fast))

    return faster


def apply_fast(equation: core.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    """Carry out an equation, fast if it can be."""
    made = replaced(equation, operands)
    if made is not None:
        return [made]
    program = called(equation)
    if program is not None and not equation.primitive.name.startswith(("remat", "checkpoint")):
        return evaluate(program, operands, apply_fast)
    rebuild = _CONTROL_FLOW.get(equation.primitive.name)
    # Of a choice by platform, each branch is for its own.
    is_platform_choice = equation.params.get("branches_platforms") is not None
    has_any = any(any_equation(each, _may_be_replaced) for each in inner(equation))
    if rebuild is not None and has_any and not is_platform_choice:
        return rebuild(equation.params, operands)
    return as_it_is(equation, operands)


def _fast_program(program: core.Jaxpr | core.ClosedJaxpr) -> Callable[..., list[Any]]:
    return lambda *operands: evaluate(closed(program), operands, apply_fast)


# ----------------------------------------------------------------------------- control flow


def _remat(parameters: dict[str, Any], operands: Sequence[Any]) -> Sequence[Any]:
    function = _fast_program(parameters["jaxpr"])
    options = {name: parameters[name] for name in ("policy", "prevent_cse")}
    return jax.checkpoint(function, **options)(*operands)


def _scan(parameters: dict[str, Any], operands: Sequence[Any]) -> Sequence[Any]:
    function = _fast_program(parameters["jaxpr"])
    constants, carry, slices = scanned(parameters, operands)
    carries = len(carry)

    def step(carry: Any, part: Any) -> tuple[Any, Any]:
        found = function(*constants, *carry, *part)
        return tuple(found[:carries]), tuple(found[carries:])

    options = {name: parameters[name] for name in ("length", "reverse", "unroll")}
    last, stacked = lax.scan(step, tuple(carry), tuple(slices), **options)
    return [*last, *stacked]


def _while(parameters: dict[str, Any], operands: Sequence[Any]) -> Sequence[Any]:
    of_condition, of_body = parameters["cond_nconsts"], parameters["body_nconsts"]
    condition, body = (_fast_program(parameters[n]) for n in ("cond_jaxpr", "body_jaxpr"))
    given = operands[:of_condition], operands[of_condition : of_condition + of_body]
    return lax.while_loop(
        lambda state: condition(*given[0], *state)[0],
        lambda state: tuple(body(*given[1], *state)),
        tuple(operands[of_condition + of_body :]),
    )


def _cond(parameters: dict[str, Any], operands: Sequence[Any]) -> Sequence[Any]:
    index, *rest = operands
    return lax.switch(index, [_fast_program(each) for each in parameters["branches"]], *rest)


_CONTROL_FLOW = {
    "remat2": _remat,
    "checkpoint": _remat,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


# ----------------------------------------------------------------------------- replacements

# A kernel wider than this is an image, as in the gradient of a kernel: not what the operations are
# fast at.
_WIDEST = 32


def replaced(equation: core.JaxprEqn, operands: Sequence[Any]) -> Any:
    """The result of an equation by an operation that is fast on CPU; ``None`` if there is none."""
    if not _may_be_replaced(equation):
        return None
    return _REPLACEMENTS[equation.primitive.name](equation.params, *map(jnp.asarray, operands))


def _may_be_replaced(equation: core.JaxprEqn) -> bool:
    if equation.primitive.name not in _REPLACEMENTS:
        return False
    types = {jnp.dtype(atom.aval.dtype) for atom in (*equation.invars, *equation.outvars)}  # pyright: ignore
    if len(types) > 1 or not types <= {jnp.dtype("float32"), jnp.dtype("float64")}:
        return False
    if equation.primitive.name == "conv_general_dilated":
        return _is_network_convolution(equation)
    parameters = equation.params
    size = parameters["window_dimensions"]
    # The batch and the channels have no window.
    return (
        len(size) > 2
        and set(parameters["base_dilation"]) == {1}
        and all(
            parameters[name][axis] == plain
            for axis in (0, -1)
            for name, plain in (
                ("window_dimensions", 1),
                ("window_strides", 1),
                ("padding", (0, 0)),
            )
        )
    )


def _is_network_convolution(equation: core.JaxprEqn) -> bool:
    parameters, kernel = equation.params, equation.invars[1].aval.shape  # pyright: ignore
    spatial = parameters["dimension_numbers"].rhs_spec[2:]
    is_spread = set(parameters["lhs_dilation"]) - {1}
    return (
        parameters["batch_group_count"] == 1
        and len(spatial) > 0
        and max(kernel[axis] for axis in spatial) <= _WIDEST
        and math.prod(equation.outvars[0].aval.shape) > 0  # pyright: ignore
        and math.prod(equation.invars[0].aval.shape) > 0  # pyright: ignore
        and not (is_spread and set(parameters["window_strides"]) != {1})
    )


def _convolution(parameters: dict[str, Any], images: Array, kernel: Array) -> Array:
    numbers = parameters["dimension_numbers"]
    (batch, channels, *spatial), (outputs, inputs, *taps) = numbers.lhs_spec, numbers.rhs_spec
    images = images.transpose(batch, *spatial, channels)
    kernel = kernel.transpose(*taps, inputs, outputs)
    groups, size = parameters["feature_group_count"], kernel.shape[:-2]
    strides, dilations = parameters["window_strides"], parameters["rhs_dilation"]
    pads, spread = parameters["padding"], parameters["lhs_dilation"]
    windows = Windows(size, tuple(strides), tuple(dilations), tuple(map(tuple, pads)))
    precision = parameters["precision"]
    if set(spread) == {1}:
        found = ops.conv(images, kernel, windows=windows, groups=groups, precision=precision)
    else:
        found = _transposed(images, kernel, windows, tuple(spread), groups, precision)
    # From batch, spatial, channels to the order that was asked for.
    order = [0] * found.ndim
    for place, axis in enumerate((numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])):
        order[axis] = place
    return found.transpose(order)


def _transposed(
    images: Array,
    kernel: Array,
    windows: Windows,
    spread: tuple[int, ...],
    groups: int,
    precision: Any,
) -> Array:
    """A convolution of images with zeros between their voxels: what a strided one is transposed."""
    size, taps = windows.size, range(kernel.ndim - 2)
    spatial, pads = [], []
    for n, w, d, s, (low, high) in zip(
        images.shape[1:-1], size, windows.dilations, spread, windows.pads, strict=True
    ):
        extent = (w - 1) * d + 1
        made = (n - 1) * s + 1 + low + high - extent + 1
        before = extent - 1 - low
        spatial.append(made)
        pads.append((before, (n - 1) * s + extent - made - before))
    mirrored = jnp.flip(kernel, tuple(taps))
    # (*size, inputs / groups, groups * outputs of each) with the two kinds of channels exchanged.
    inputs, outputs = kernel.shape[-2], kernel.shape[-1] // groups
    mirrored = mirrored.reshape(*size, inputs, groups, outputs)
    mirrored = mirrored.transpose(*taps, len(size) + 2, len(size) + 1, len(size))
    return ops.image_gradient(
        images,
        mirrored.reshape(*size, outputs, groups * inputs),
        windows=Windows(size, spread, windows.dilations, tuple(pads)),
        groups=groups,
        spatial=spatial,
        precision=precision,
    )


def _pooling(pool: Callable[..., Array]) -> Callable[..., Array]:
    def replaced(parameters: dict[str, Any], images: Array) -> Array:
        size, strides, dilations, pads = (
            tuple(parameters[name][1:-1])
            for name in ("window_dimensions", "window_strides", "window_dilation", "padding")
        )
        windows = Windows(size, strides, dilations, tuple(map(tuple, pads)))
        return pool(images, windows=windows)

    return replaced


_REPLACEMENTS = {
    "conv_general_dilated": _convolution,
    "reduce_window_max": _pooling(ops.max_pool),
    "reduce_window_sum": _pooling(ops.sum_pool),
}
