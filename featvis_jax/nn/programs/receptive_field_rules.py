"""How each primitive of JAX moves the voxel intervals that `receptive_fields` follows.

A rule takes one equation of a program and returns one span per output: ``None`` for what the image
does not enter.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from featvis_jax.nn.programs.spans import (
    Span,
    Spans,
    everywhere,
    over_windows,
    padded,
    union,
    without,
)

Shape = tuple[int, ...]


class Equation(NamedTuple):
    """One step of a program.

    Attributes:
      parameters: The primitive's.
      spans: What the image does to each operand.
      shapes: The operands'.
      outputs: The results' shapes.
      values: The operands', where they are known.
    """

    parameters: dict[str, Any]
    spans: Spans
    shapes: Sequence[Shape]
    outputs: Sequence[Shape]
    values: Sequence[Any]


Rule = Callable[[Equation], Spans]


def rule(primitive: str) -> Rule:
    """The rule of a primitive; all of the image for one that is not known."""
    if is_elementwise(primitive):
        return _elementwise
    if primitive.startswith("reduce_window"):
        return _reduce_window
    if primitive.startswith("reduce_") or primitive in ("argmax", "argmin"):
        return _reduce
    return _RULES.get(primitive, _unknown)


_NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy
cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite layer le
lgamma log log1p logistic lt max min mul name ne neg nextafter not optimization_barrier or pow
reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor
"""
_ELEMENTWISE = frozenset(_NAMES.split())


def is_elementwise(primitive: str) -> bool:
    """Whether each element of a result comes of the same element of each operand, or a scalar."""
    return primitive in _ELEMENTWISE


def _elementwise(equation: Equation) -> Spans:
    spans, outputs = equation.spans, equation.outputs
    if len(outputs) == len(spans) > 1:
        return spans
    return [union(spans)] * len(outputs)


def _unknown(equation: Equation) -> Spans:
    spans, outputs = equation.spans, equation.outputs
    present = [everywhere(span) for span in spans if span is not None]
    return [union(present)] * len(outputs)


def _reduce_window(equation: Equation) -> Spans:
    parameters, spans, outputs = equation.parameters, equation.spans, equation.outputs
    span = spans[0]
    if span is None or span.axis is None:
        return _unknown(equation)
    axis = span.axis
    return [
        over_windows(
            span,
            axis,
            size=parameters["window_dimensions"][axis],
            stride=parameters["window_strides"][axis],
            dilation=parameters["window_dilation"][axis],
            base_dilation=parameters["base_dilation"][axis],
            padding=parameters["padding"][axis],
        )
    ] * len(outputs)


def _reduce(equation: Equation) -> Spans:
    parameters, spans, outputs = equation.parameters, equation.spans, equation.outputs
    axes = [int(axis) for axis in parameters.get("axes", ())]  # Some are numpy's.
    return [union([without(span, axes) for span in spans if span is not None])] * len(outputs)


def _one(move: Callable[[dict[str, Any], Span, Shape, Shape], Span]) -> Rule:
    """A rule for a primitive that moves the elements of its first operand."""

    def moved(equation: Equation) -> Spans:
        parameters, spans, shapes, outputs = (
            equation.parameters,
            equation.spans,
            equation.shapes,
            equation.outputs,
        )
        span = spans[0]
        if span is None or any(other is not None for other in spans[1:]):
            return _unknown(equation)
        if span.axis is None:
            return [span] * len(outputs)
        return [move(parameters, span, shapes[0], outputs[0])]

    return moved


def _broadcast(parameters: dict[str, Any], span: Span, shape: Shape, output: Shape) -> Span:
    assert span.axis is not None
    axis = int(parameters["broadcast_dimensions"][span.axis])  # Some are numpy's.
    return span._replace(axis=axis) if output[axis] == shape[span.axis] else everywhere(span)


def _transpose(parameters: dict[str, Any], span: Span, shape: Shape, output: Shape) -> Span:
    return span._replace(axis=tuple(parameters["permutation"]).index(span.axis))


def _squeeze(parameters: dict[str, Any], span: Span, shape: Shape, output: Shape) -> Span:
    return without(span, [dimension % len(shape) for dimension in parameters["dimensions"]])


def _slice(parameters: dict[str, Any], span: Span, shape: Shape, output: Shape) -> Span:
    assert span.axis is not None
    strides = parameters["strides"] or (1,) * len(shape)
    kept = slice(
        parameters["start_indices"][span.axis],
        parameters["limit_indices"][span.axis],
        strides[span.axis],
    )
    return Span(span.axis, span.low[kept], span.high[kept])


def _dynamic_slice(parameters: dict[str, Any], span: Span, shape: Shape, output: Shape) -> Span:
    assert span.axis is not None
    return span if output[span.axis] == shape[span.axis] else everywhere(span)


def _pad(parameters: dict[str, Any], span: Span, shape: Shape, output: Shape) -> Span:
    assert span.axis is not None
    return padded(span, span.axis, parameters["padding_config"][span.axis])


def _reverse(parameters: dict[str, Any], span: Span, shape: Shape, output: Shape) -> Span:
    if span.axis not in parameters["dimensions"]:
        return span
    return Span(span.axis, span.low[::-1], span.high[::-1])


# Merged axes with more elements, such as a volume that is flattened, are followed no further.
_LARGEST_GROUP = 2**24


def _reshape(parameters: dict[str, Any], span: Span, shape: Shape, output: Shape) -> Span:
    """Follow an axis through a merge, a split, or both, after a transposition if it has one."""
    assert span.axis is not None
    if parameters["dimensions"] is not None:
        order = tuple(parameters["dimensions"])
        shape, span = tuple(shape[i] for i in order), span._replace(axis=order.index(span.axis))
        assert span.axis is not None
    before, after = _group(shape, output, span.axis)
    sizes, new = [shape[i] for i in before], [output[i] for i in after]
    if not 0 < math.prod(sizes) <= _LARGEST_GROUP:
        return everywhere(span)
    place = [1] * len(sizes)
    place[before.index(span.axis)] = -1
    low = np.broadcast_to(span.low.reshape(place), sizes).reshape(new)
    high = np.broadcast_to(span.high.reshape(place), sizes).reshape(new)
    candidates = [everywhere(span)]
    for position, axis in enumerate(after):
        others = tuple(i for i in range(len(new)) if i != position)
        candidates.append(Span(axis, low.min(axis=others), high.max(axis=others)))
    # The axis that tells the elements apart best is the one that still is spatial.
    return min(candidates, key=lambda c: float(np.clip(c.high - c.low, 0, None).mean()))


def _group(shape: Shape, output: Shape, axis: int) -> tuple[list[int], list[int]]:
    """The smallest run of axes around `axis`, before and after, with equally many elements."""
    starts = list(itertools.accumulate(shape, lambda a, b: a * b, initial=1))
    new_starts = list(itertools.accumulate(output, lambda a, b: a * b, initial=1))
    common = sorted(set(starts) & set(new_starts))
    first = max(value for value in common if value <= starts[axis])
    last = min(value for value in common if value >= starts[axis + 1])
    before = [i for i in range(len(shape)) if starts[i] >= first and starts[i + 1] <= last]
    after = [i for i in range(len(output)) if new_starts[i] >= first and new_starts[i + 1] <= last]
    return before, after


def _concatenate(equation: Equation) -> Spans:
    parameters, spans, shapes = equation.parameters, equation.spans, equation.shapes
    axis = parameters["dimension"]
    if all(span is None or span.axis != axis for span in spans):
        return [union(spans)]
    if any(span is not None and span.axis not in (axis, None) for span in spans):
        return _unknown(equation)
    lows, highs = [], []
    for span, shape in zip(spans, shapes, strict=True):
        low, high = (np.inf, -np.inf) if span is None else (span.low, span.high)
        lows.append(np.broadcast_to(low, (shape[axis],)))
        highs.append(np.broadcast_to(high, (shape[axis],)))
    return [Span(axis, np.concatenate(lows), np.concatenate(highs))]


def _split(equation: Equation) -> Spans:
    parameters, spans, outputs = equation.parameters, equation.spans, equation.outputs
    (span,) = spans
    if span is None or span.axis != parameters["axis"]:
        return [span] * len(outputs)
    cuts = np.cumsum(parameters["sizes"])[:-1]
    pairs = zip(np.split(span.low, cuts), np.split(span.high, cuts), strict=True)
    return [Span(span.axis, low, high) for low, high in pairs]


def _convolution(equation: Equation) -> Spans:
    parameters, spans, shapes = equation.parameters, equation.spans, equation.shapes
    span, numbers = spans[0], parameters["dimension_numbers"]
    batch_is_free = parameters["batch_group_count"] == 1
    if span is None or spans[1] is not None or span.axis is None:
        return _unknown(equation)
    if span.axis == numbers.lhs_spec[0] and batch_is_free:
        return [span._replace(axis=numbers.out_spec[0])]
    if span.axis not in numbers.lhs_spec[2:]:
        return _unknown(equation)
    spatial = numbers.lhs_spec[2:].index(span.axis)
    moved = over_windows(
        span,
        span.axis,
        size=shapes[1][numbers.rhs_spec[2 + spatial]],
        stride=parameters["window_strides"][spatial],
        dilation=parameters["rhs_dilation"][spatial],
        base_dilation=parameters["lhs_dilation"][spatial],
        padding=parameters["padding"][spatial],
    )
    return [moved._replace(axis=numbers.out_spec[2 + spatial])]


def _our_conv(equation: Equation) -> Spans:
    """`featvis_jax.nn.ops.conv`, or its transpose in the images, of a kernel without the image."""
    images, kernel = equation.spans
    channels = len(equation.shapes[0]) - 1
    if kernel is not None or (images is not None and images.axis == channels):
        return _unknown(equation)
    return [_our_windows(equation, images)]


def _our_pooling(equation: Equation) -> Spans:
    """`featvis_jax.nn.ops` over windows of its operands."""
    return [_our_windows(equation, union(equation.spans))] * len(equation.outputs)


def _our_pick(equation: Equation) -> Spans:
    images, place = equation.spans
    return [union([_our_windows(equation, images), place])]


def _our_windows(equation: Equation, span: Span | None) -> Span | None:
    """After `Windows` of the spatial axes, or a transposition of them."""
    parameters = equation.parameters
    first, channels = parameters["lanes"] + 1, len(equation.shapes[0]) - 1
    if span is None or span.axis is None or not first <= span.axis < channels:
        return span
    windows, spatial = parameters["windows"], span.axis - first
    extent, stride = windows.extents[spatial], windows.strides[spatial]
    low, high = windows.pads[spatial]
    moved = functools.partial(
        over_windows,
        span,
        span.axis,
        size=windows.size[spatial],
        dilation=windows.dilations[spatial],
    )
    if "spatial" not in parameters:
        return moved(stride=stride, base_dilation=1, padding=(low, high))
    before = extent - 1 - low
    # As many as it takes for every voxel to have a window.
    after = parameters["spatial"][spatial] + low - (len(span.low) - 1) * stride - 1
    return moved(stride=1, base_dilation=stride, padding=(before, after))


def _dot(equation: Equation) -> Spans:
    parameters, spans, shapes, values = (
        equation.parameters,
        equation.spans,
        equation.shapes,
        equation.values,
    )
    contracted, batched = parameters["dimension_numbers"]
    moved: list[Span | None] = []
    for side, span in enumerate(spans):
        if span is None or span.axis is None:
            moved.append(span)
            continue
        free = [
            [i for i in range(len(shapes[s])) if i not in (*contracted[s], *batched[s])]
            for s in (0, 1)
        ]
        if span.axis in batched[side]:
            moved.append(span._replace(axis=tuple(batched[side]).index(span.axis)))
        elif span.axis in free[side]:
            offset = len(batched[0]) + (len(free[0]) if side else 0)
            moved.append(span._replace(axis=offset + free[side].index(span.axis)))
        else:
            matrix, other = values[1 - side], free[1 - side]
            if matrix is None or len(contracted[side]) > 1 or batched[side] or len(other) != 1:
                moved.append(everywhere(span))
                continue
            # A known matrix, as interpolation has it: zeros let nothing through.
            matrix = np.moveaxis(np.asarray(matrix), other[0], 0) != 0
            low = np.where(matrix, span.low, np.inf).min(axis=1)
            high = np.where(matrix, span.high, -np.inf).max(axis=1)
            moved.append(Span(0 if side else len(free[0]), low, high))
    return [union(moved)]


_RULES: dict[str, Rule] = {
    "broadcast_in_dim": _one(_broadcast),
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "dynamic_slice": _one(_dynamic_slice),
    "fast_conv": _our_conv,
    "fast_conv_image_gradient": _our_conv,
    "fast_max_pool": _our_pooling,
    "fast_max_pool_and_place": _our_pooling,
    "fast_max_pool_pick": _our_pick,
    "fast_max_pool_route": _our_pooling,
    "fast_sum_pool": _our_pooling,
    "fast_sum_pool_spread": _our_pooling,
    "pad": _one(_pad),
    "reshape": _one(_reshape),
    "rev": _one(_reverse),
    "slice": _one(_slice),
    "split": _split,
    "squeeze": _one(_squeeze),
    "transpose": _one(_transpose),
}
