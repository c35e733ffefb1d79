"""Receptive fields and strides of any JAX function, read off its program.

For every array that a program computes, and for each spatial axis of the image, an interval of
input voxels is known that can change an element; the elements along one axis of the array differ
in it, and all others share it. A convolution takes the union over its window, a sum over the
branches of a network the union of both, a reduction over space the union of all. So the result
holds for skip connections, dilation, transposed convolution and interpolation, whoever wrote the
network. What the rules do not know is taken to reach everything: never too little.

References:
  Araujo, Norris and Sim (2019). Computing receptive fields of convolutional neural networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core
from jaxtyping import PyTree

from featvis_jax.nn.programs import receptive_field_rules as rules
from featvis_jax.nn.programs.evaluate import inner
from featvis_jax.nn.programs.spans import Span, union


class ReceptiveField(NamedTuple):
    """How far a layer sees.

    Attributes:
      size: The largest extent, in input voxels along any axis, that reaches one output;
        ``None`` where an output is reached from everywhere.
      stride: Input voxels between neighbouring outputs; ``None`` where outputs are not ordered in
        space.
    """

    size: int | None
    stride: int | None


def receptive_fields(
    function: Callable[[Any, Any], Mapping[str, Any]],
    variables: PyTree,
    image_shape: Sequence[int],
) -> dict[str, ReceptiveField]:
    """How far each output of a function of an image sees. Nothing is computed.

    Args:
      function: ``(variables, image) -> {layer: output}``.
      variables: Its weights, or their shapes.
      image_shape: ``(*spatial, channels)``.

    Example:
      >>> from jax import lax
      >>> def pool(variables, image):
      ...     window, strides = (3, 3, 1), (2, 2, 1)
      ...     return {"pool": lax.reduce_window(image, -jnp.inf, lax.max, window, strides, "SAME")}
      >>> receptive_fields(pool, {}, (16, 18, 1))
      {'pool': ReceptiveField(size=3, stride=2)}
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    image = jax.ShapeDtypeStruct(tuple(image_shape), jnp.float32)
    closed, outputs = jax.make_jaxpr(
        lambda image, variables: function(variables, image), return_shape=True
    )(image, shapes)
    found = spans(closed, closed.jaxpr.outvars, image_shape)
    # A dictionary's leaves come sorted by their keys.
    return {name: summary(found[i], image_shape[:-1]) for i, name in enumerate(sorted(outputs))}


def spans(
    program: core.ClosedJaxpr, values: Sequence[Any], image_shape: Sequence[int]
) -> list[list[Span | None]]:
    """For some values of a program, which voxels along each axis of the image reach them.

    Args:
      program: Its first argument is the image; its others are weights.
      values: Variables, or literals, of the program.
      image_shape: ``(*spatial, channels)``.
    """
    found = _spans(program, values, image_shape, points=False)
    return [list(of_axes) for of_axes in zip(*found, strict=True)]


def points(
    program: core.ClosedJaxpr, values: Sequence[Any], image_shape: Sequence[int]
) -> list[list[Span | None]]:
    """For some values of a program, where along each axis of the image their elements lie.

    An element lies at the middle of what it is computed from. What is computed from all of the
    image lies nowhere and moves nothing: a normalization by a mean leaves each element its place,
    although it sees everything.

    Args:
      program: Its first argument is the image; its others are weights.
      values: Variables, or literals, of the program.
      image_shape: ``(*spatial, channels)``.
    """
    found = _spans(program, values, image_shape, points=True)
    return [list(of_axes) for of_axes in zip(*found, strict=True)]


def _spans(
    program: core.ClosedJaxpr, values: Sequence[Any], image_shape: Sequence[int], *, points: bool
) -> list[list[Span | None]]:
    """Of each value, for one axis of the image after the other."""
    if not values:  # As of networks whose modules say themselves which axes they have.
        return []
    found: list[list[Span | None]] = []
    for axis, size in enumerate(image_shape[:-1]):
        positions = np.arange(size, dtype=np.float64)
        inputs: list[Span | None] = [None] * len(program.jaxpr.invars)
        inputs[0] = Span(axis, positions, positions)
        known: list[Any] = [None] * len(inputs)
        environment = _walk(program, inputs, known, points=points)
        found.append([_read(environment, value)[0] for value in values])
    return found


def summary(of_axes: Sequence[Span | None], sizes: Sequence[int]) -> ReceptiveField:
    """How far an output sees.

    Args:
      of_axes: What `spans` found for it.
      sizes: The image's spatial shape.
    """
    extents, steps = [], []
    for span, size in zip(of_axes, sizes, strict=True):
        if span is None:
            continue
        extents.append((int(np.max(span.high - span.low, initial=-1)) + 1, size))
        steps.append(_stride(span, size))
    if not extents or all(extent >= size for extent, size in extents):
        return ReceptiveField(None, None)
    strides = [step for step in steps if step is not None]
    return ReceptiveField(max(extent for extent, _ in extents), max(strides) if strides else None)


def _stride(span: Span, size: int) -> int | None:
    """The mean step, taken where the image's border has not cut the intervals."""
    if span.axis is None or len(span.low) < 2:
        return None
    steps = []
    for edges, inside in ((span.low, span.low > 0), (span.high, span.high < size - 1)):
        # Nothing of the image arrives where it was padded.
        reached = np.isfinite(edges)
        inside = inside & reached
        # On a grid that is small for the network there is little but border.
        indices = np.flatnonzero(inside if 2 * inside.sum() >= reached.sum() else reached)
        if len(indices) > 1:
            first, last = indices[0], indices[-1]
            steps.append(float(edges[last] - edges[first]) / (last - first))
    # What the border has cut moves less.
    return max(1, round(max(steps))) if steps else None


_Result = tuple[Span | None, Any]


def _walk(
    closed: core.ClosedJaxpr, inputs: Sequence[Span | None], known: Sequence[Any], *, points: bool
) -> dict[core.Var, _Result]:
    """Spans, and contents where they depend on no argument, of all values of a program."""
    jaxpr = closed.jaxpr
    environment: dict[core.Var, _Result] = {}
    for variable, value in zip(jaxpr.constvars, closed.consts, strict=True):
        is_value = not isinstance(value, Tracer) and np.size(value) <= _LARGEST_CONSTANT
        environment[variable] = (None, value if is_value else None)
    environment.update(zip(jaxpr.invars, zip(inputs, known, strict=True), strict=True))

    for equation in jaxpr.eqns:
        operands = [_read(environment, atom) for atom in equation.invars]
        results = _apply(equation, operands, points=points)
        environment.update(zip(equation.outvars, results, strict=True))
    return environment


def _outputs(
    closed: core.ClosedJaxpr, inputs: Sequence[Span | None], known: Sequence[Any], *, points: bool
) -> list[_Result]:
    environment = _walk(closed, inputs, known, points=points)
    return [_read(environment, atom) for atom in closed.jaxpr.outvars]


def _read(environment: dict[core.Var, _Result], atom: Any) -> _Result:
    return (None, atom.val) if isinstance(atom, core.Literal) else environment[atom]


# Interpolation matrices are worth knowing; weights are arguments and never known.
_LARGEST_CONSTANT = 2**20


def _apply(equation: core.JaxprEqn, operands: Sequence[_Result], *, points: bool) -> list[_Result]:
    called = _inner_programs(equation)
    found = [span for span, _ in operands]
    values = [value for _, value in operands]
    if called:
        branches, skipped = called
        results = [
            _outputs(branch, found[skipped:], values[skipped:], points=points)
            for branch in branches
        ]
        return [
            (
                union([span for span, _ in outputs]),
                outputs[0][1] if len(outputs) == 1 else None,
            )
            for outputs in zip(*results, strict=True)
        ]
    if all(span is None for span in found):
        return [(None, value) for value in _evaluated(equation, values)]
    if points and any(span is not None and span.axis is not None for span in found):
        found = [None if span is None or span.axis is None else span for span in found]
    shapes = [tuple(atom.aval.shape) for atom in equation.invars]  # pyright: ignore
    outputs = [tuple(variable.aval.shape) for variable in equation.outvars]  # pyright: ignore
    rule = rules.rule(equation.primitive.name)
    facts = rules.Equation(equation.params, found, shapes, outputs, values)
    return [(_middle(span) if points else span, None) for span in rule(facts)]


def _middle(span: Span | None) -> Span | None:
    """Points instead of intervals."""
    if span is None:
        return None
    reached = np.isfinite(span.low)
    middle = (np.where(reached, span.low, 0) + np.where(reached, span.high, 0)) / 2
    low, high = np.where(reached, middle, np.inf), np.where(reached, middle, -np.inf)
    return span._replace(low=low, high=high)


def _inner_programs(equation: core.JaxprEqn) -> tuple[list[core.ClosedJaxpr], int] | None:
    """The programs that an equation calls on its operands, and how many operands they lack."""
    name, parameters = equation.primitive.name, equation.params
    if name == "cond":
        branches = list(parameters["branches"])
        # One implementation for each platform, all of the same function: the last is the plain one.
        return (branches[-1:] if parameters.get("branches_platforms") else branches), 1
    if name in ("scan", "while"):
        return None
    for program in inner(equation):
        # A call, whatever its name and its rules for derivatives and batches.
        if len(program.jaxpr.invars) == len(equation.invars) and (
            len(program.jaxpr.outvars) == len(equation.outvars)
        ):
            return [program], 0
    return None


def _evaluated(equation: core.JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The values of an equation that no argument enters, as far as they are known and small."""
    sizes = [math.prod(v.aval.shape) for v in equation.outvars]  # pyright: ignore
    unknown = any(value is None for value in values) or equation.primitive.name == "platform_index"
    if unknown or max(sizes, default=0) > _LARGEST_CONSTANT:
        return [None] * len(equation.outvars)
    with jax.ensure_compile_time_eval():
        results = equation.primitive.bind(*map(jnp.asarray, values), **equation.params)
    return list(results) if equation.primitive.multiple_results else [results]
