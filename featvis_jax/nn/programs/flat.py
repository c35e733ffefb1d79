"""A function as one flat program, without calls, in which its layers are found by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jaxtyping import Array, PyTree

from featvis_jax.nn.programs.evaluate import (
    any_equation,
    as_it_is,
    called,
    closed,
    evaluate,
    inner,
    scanned,
)
from featvis_jax.nn.programs.marks import is_mark
from featvis_jax.nn.programs.refusal import refusal, refused_effects
from featvis_jax.nn.tokens import Tokens

# Constants with more elements are given to a program as arguments: XLA would fold them for minutes.
# Smaller ones, such as the matrices of an interpolation, are worth knowing.
_LARGEST_CONSTANT = 2**16


class Marked(NamedTuple):
    """A value that has a name.

    Attributes:
      variable: The value.
      lane: For a module under `jax.vmap`, which of its copies, along each of the axes in front.
      operator: What makes it; empty where its name is all that is known.
      has_weights: Whether that has parameters.
      tokens: Which elements of a sequence are places of the image, where the network says so.
    """

    variable: core.Var
    lane: tuple[int, ...]
    operator: str
    has_weights: bool
    tokens: Tokens | None


class Flat(NamedTuple):
    """A program of an image and its weights.

    Attributes:
      program: ``(image, *weights, *closed_over) -> ()``.
      marked: What has a name, in order.
      hidden: Names inside of what has to be taken as a whole, such as a loop.
      closed_over: Large constants, which are arguments here.
    """

    program: core.ClosedJaxpr
    marked: dict[str, Marked]
    hidden: tuple[str, ...]
    closed_over: tuple[Array, ...]


def trace(
    function: Callable[[PyTree, Array], Any], variables: PyTree, image: jax.ShapeDtypeStruct
) -> Flat:
    """Make a flat program of a function. Nothing is computed.

    Args:
      function: ``(variables, image) -> anything``; what it calls a layer is what counts.
      variables: Its weights, or their shapes.
      image: What the image is.

    Raises:
      ValueError: It cannot be traced, or has side effects; the message says where and why.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    try:
        as_written = jax.make_jaxpr(lambda x, variables: function(variables, x))(image, shapes)
    except Exception as error:  # It runs the user's own code.
        raise refusal(error) from error
    effects = refused_effects(as_written)
    if effects is not None:
        raise effects
    constants = as_written.consts
    large = [i for i, value in enumerate(constants) if np.size(value) > _LARGEST_CONSTANT]

    def inlined(image: Array, weights: Sequence[Array], closed_over: Sequence[Array]) -> None:
        given = dict(zip(large, closed_over, strict=True))
        values = [given.get(i, value) for i, value in enumerate(constants)]
        evaluate(core.ClosedJaxpr(as_written.jaxpr, values), [image, *weights], _inlined)

    closed_over = tuple(constants[i] for i in large)
    arguments = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in closed_over]
    program = jax.make_jaxpr(inlined)(image, jax.tree.leaves(shapes), arguments)
    marked, hidden = _names(program)
    return Flat(program, marked, hidden, closed_over)


def flattened(program: core.Jaxpr | core.ClosedJaxpr) -> core.ClosedJaxpr:
    """A program without calls.

    Args:
      program: Any program.
    """
    given = closed(program)
    if all(called(equation) is None for equation in given.jaxpr.eqns):
        return given
    inputs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in given.jaxpr.invars]  # pyright: ignore
    return jax.make_jaxpr(lambda *operands: evaluate(given, operands, _inlined))(*inputs)


def _inlined(equation: core.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    program = called(equation)
    if program is not None:
        return evaluate(program, operands, _inlined)
    if equation.primitive.name == "scan" and any_equation(_body(equation), is_mark):
        return _unrolled(equation, operands)
    return as_it_is(equation, operands)


def _body(equation: core.JaxprEqn) -> core.ClosedJaxpr:
    return closed(equation.params["jaxpr"])


def _unrolled(equation: core.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    """The steps of a scan, one after the other."""
    parameters = equation.params
    constants, carry, slices = scanned(parameters, operands)
    carries = len(carry)
    order = range(parameters["length"])
    stacked: dict[int, list[Any]] = {}
    for step in reversed(order) if parameters["reverse"] else order:
        parts = [lax.index_in_dim(each, step, keepdims=False) for each in slices]
        found = evaluate(_body(equation), [*constants, *carry, *parts], _inlined)
        carry, stacked[step] = found[:carries], found[carries:]
    columns = zip(*(stacked[step] for step in order), strict=True)
    return [*carry, *(jnp.stack(column) for column in columns)]


def _names(program: core.ClosedJaxpr) -> tuple[dict[str, Marked], tuple[str, ...]]:
    """Every marked value by a name of its own, and the names that are out of reach."""
    counts: Counter[str] = Counter()
    marked: dict[str, Marked] = {}
    hidden: dict[str, None] = {}
    for equation in program.jaxpr.eqns:
        if not is_mark(equation):
            for each in inner(equation):
                hidden.update(dict.fromkeys(_all_names(each)))
            continue
        parameters, (variable,) = equation.params, equation.outvars
        lanes = variable.aval.shape[: parameters.get("lanes", 0)]  # pyright: ignore
        for lane in np.ndindex(*lanes):
            name = parameters["name"]
            counts[name] += 1
            unique = name if counts[name] == 1 else f"{name}@{counts[name]}"
            if unique in marked:
                raise ValueError(f"Two layers are called {unique!r}: rename one of them.")
            marked[unique] = Marked(
                variable,
                tuple(map(int, lane)),
                parameters.get("operator", ""),
                has_weights=bool(parameters.get("has_weights")),
                tokens=parameters.get("tokens"),
            )
    return marked, tuple(name for name in hidden if name not in marked)


def _all_names(program: core.ClosedJaxpr) -> list[str]:
    found = []
    for equation in program.jaxpr.eqns:
        if is_mark(equation):
            found.append(equation.params["name"])
        for each in inner(equation):
            found += _all_names(each)
    return found
