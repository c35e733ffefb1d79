"""What each primitive needs of its operands for a part of its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from featvis_jax.nn.programs.cuts import Cut, Part, Sources, filled
from featvis_jax.nn.programs.evaluate import Apply
from featvis_jax.nn.programs.receptive_field_rules import is_elementwise

Compute = Callable[[Sequence[Any], Sources, Apply], Sequence[Any]]


class Pulled(NamedTuple):
    """How a part of one result of an equation is made.

    Attributes:
      takes: The part of each operand that it takes.
      makes: The part of the result that comes of them, no less than what was asked for.
      compute: ``(operands, sources, apply) -> (result,)``.
    """

    takes: list[Part]
    makes: Part
    compute: Compute


def pulled_back(equation: core.JaxprEqn, index: int, part: Part) -> Pulled | None:
    """What an equation needs for a part of a result; ``None`` if that is all of its operands.

    Args:
      equation: The equation.
      index: Which of its results.
      part: Which part of it.
    """
    name = equation.primitive.name
    if name == "split":
        return _split(equation, index, part)
    if len(equation.outvars) > 1:
        return None
    if is_elementwise(name):
        pulled = _elementwise(equation, part)
    elif name.startswith("reduce_window"):
        pulled = _reduce_window(equation, part)
    elif name.startswith("reduce_") or name in ("argmax", "argmin"):
        pulled = _reduce(equation, part)
    elif name in _RULES:
        pulled = _RULES[name](equation, part)
    else:
        return None
    return pulled if pulled is not None and pulled.makes else None


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _with(equation: core.JaxprEqn, operands: Sequence[Any], apply: Apply, **changed: Any) -> Any:
    """An equation carried out with other parameters, such as shapes."""
    return apply(equation.replace(params={**equation.params, **changed}), operands)  # pyright: ignore


def _as_it_is(equation: core.JaxprEqn) -> Compute:
    return lambda operands, _, apply: apply(equation, operands)


def _elementwise(equation: core.JaxprEqn, part: Part) -> Pulled:
    shape = _shape(equation.outvars[0])
    # Scalars, and axes of length 1, meet all elements.
    takes: list[Part] = [
        {axis: cut for axis, cut in part.items() if _shape(atom)[axis : axis + 1] == (shape[axis],)}
        for atom in equation.invars
    ]
    return Pulled(takes, part, _as_it_is(equation))


def _others(equation: core.JaxprEqn, first: Part) -> list[Part]:
    return [first, *({} for _ in equation.invars[1:])]


# ------------------------------------------------------------------------------ moving axes


def _broadcast(equation: core.JaxprEqn, part: Part) -> Pulled:
    dimensions, shape = equation.params["broadcast_dimensions"], _shape(equation.invars[0])
    taken = {
        operand_axis: part[axis]
        for operand_axis, axis in enumerate(dimensions)
        if axis in part and shape[operand_axis] > 1
    }
    made = _resized(_shape(equation.outvars[0]), part)
    return Pulled(
        _others(equation, taken),
        part,
        lambda operands, _, apply: _with(equation, operands, apply, shape=made),
    )


def _resized(shape: tuple[int, ...], part: Part) -> tuple[int, ...]:
    return tuple(part[axis].size if axis in part else n for axis, n in enumerate(shape))


def _transpose(equation: core.JaxprEqn, part: Part) -> Pulled:
    permutation = equation.params["permutation"]
    return Pulled(
        [{permutation[axis]: cut for axis, cut in part.items()}], part, _as_it_is(equation)
    )


def _squeeze(equation: core.JaxprEqn, part: Part) -> Pulled:
    rank = len(_shape(equation.invars[0]))
    gone = {axis % rank for axis in equation.params["dimensions"]}
    kept = [axis for axis in range(rank) if axis not in gone]
    return Pulled([{kept[axis]: cut for axis, cut in part.items()}], part, _as_it_is(equation))


def _reshape(equation: core.JaxprEqn, part: Part) -> Pulled | None:
    out, order = _shape(equation.outvars[0]), equation.params["dimensions"]
    # It may transpose before.
    order = order or range(len(_shape(equation.invars[0])))
    shape = [_shape(equation.invars[0])[axis] for axis in order]
    taken, makes = {}, {}
    for axis, cut in part.items():
        before = math.prod(out[:axis])
        for place, operand_axis in enumerate(order):
            is_same = shape[place] == out[axis] and math.prod(shape[:place]) == before
            if is_same and operand_axis not in taken:
                taken[operand_axis], makes[axis] = cut, cut
                break
    sizes = _resized(out, makes)
    return Pulled(
        _others(equation, taken),
        makes,
        lambda operands, _, apply: _with(equation, operands, apply, new_sizes=sizes),
    )


def _reverse(equation: core.JaxprEqn, part: Part) -> Pulled:
    shape, dimensions = _shape(equation.invars[0]), equation.params["dimensions"]
    taken = {
        axis: cut._replace(scale=-cut.scale, offset=shape[axis] - cut.offset - cut.size)
        if axis in dimensions
        else cut
        for axis, cut in part.items()
    }
    return Pulled([taken], part, _as_it_is(equation))


def _reduce(equation: core.JaxprEqn, part: Part) -> Pulled | None:
    shape, axes = _shape(equation.invars[0]), equation.params.get("axes")
    if axes is None or any(_shape(atom) != shape for atom in equation.invars):
        return None
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    taken = {kept[axis]: cut for axis, cut in part.items()}
    return Pulled([taken for _ in equation.invars], part, _as_it_is(equation))


def _along(equation: core.JaxprEqn, part: Part) -> Pulled:
    """Of what runs along one axis."""
    axis = equation.params["axis"] if "axis" in equation.params else equation.params["dimension"]
    kept = {each: cut for each, cut in part.items() if each != axis}
    return Pulled([kept for _ in equation.invars], kept, _as_it_is(equation))


# ------------------------------------------------------------------------------ moving elements


def _slice(equation: core.JaxprEqn, part: Part) -> Pulled:
    parameters, shape = equation.params, _shape(equation.invars[0])
    starts, limits = list(parameters["start_indices"]), list(parameters["limit_indices"])
    strides = parameters["strides"] or (1,) * len(shape)
    taken = {}
    for axis, cut in part.items():
        taken[axis] = cut.through(stride=strides[axis], start=starts[axis], extent=1)
        starts[axis], limits[axis] = 0, taken[axis].size
    bounds = {"start_indices": tuple(starts), "limit_indices": tuple(limits)}
    return Pulled(
        [taken],
        part,
        lambda operands, _, apply: _with(equation, operands, apply, **bounds),
    )


def _dynamic_slice(equation: core.JaxprEqn, part: Part) -> Pulled:
    shape, sizes = _shape(equation.invars[0]), equation.params["slice_sizes"]
    kept = {axis: cut for axis, cut in part.items() if sizes[axis] == shape[axis]}
    made = _resized(sizes, kept)
    return Pulled(
        _others(equation, kept),
        kept,
        lambda operands, _, apply: _with(equation, operands, apply, slice_sizes=made),
    )


def _split(equation: core.JaxprEqn, index: int, part: Part) -> Pulled:
    axis, sizes = equation.params["axis"], equation.params["sizes"]
    start = sum(sizes[:index])
    own = part.get(axis, Cut(None, 0, 0, sizes[index]))
    taken = {**part, axis: own.through(stride=1, start=start, extent=1)}
    # What is taken is the result: nothing is left to do.
    return Pulled([taken], part, lambda operands, _, apply: operands)


def _pad(equation: core.JaxprEqn, part: Part) -> Pulled:
    shape, config = _shape(equation.invars[0]), list(equation.params["padding_config"])
    taken, makes = {}, {}
    for axis, cut in part.items():
        low, _, between = config[axis]
        seen = cut.through(stride=1, start=-low, extent=1)
        if between == 0 and seen.size < shape[axis]:
            taken[axis], makes[axis] = seen, cut
            config[axis] = (0, 0, 0)
    changed = tuple(config)

    def compute(operands: Sequence[Any], sources: Sources, apply: Apply) -> Any:
        array, fill = operands
        array = filled(array, taken, shape, fill, sources)
        return _with(equation, [array, fill], apply, padding_config=changed)

    return Pulled([taken, {}], makes, compute)


# ------------------------------------------------------------------------------ windows


def _reduce_window(equation: core.JaxprEqn, part: Part) -> Pulled | None:
    fill = {"max": -np.inf, "min": np.inf, "sum": 0.0}.get(equation.primitive.name[14:])
    if fill is None:
        return None
    parameters, shape = equation.params, _shape(equation.invars[0])
    pads, taken, makes = list(parameters["padding"]), {}, {}
    for axis, cut in part.items():
        extent = (parameters["window_dimensions"][axis] - 1) * parameters["window_dilation"][
            axis
        ] + 1
        seen = cut.through(
            stride=parameters["window_strides"][axis], start=-pads[axis][0], extent=extent
        )
        if parameters["base_dilation"][axis] == 1 and seen.size < max(shape[axis], 2):
            taken[axis], makes[axis], pads[axis] = seen, cut, (0, 0)
    padding = tuple(pads)

    def compute(operands: Sequence[Any], sources: Sources, apply: Apply) -> Any:
        image = filled(operands[0], taken, shape, fill, sources)
        return _with(equation, [image], apply, padding=padding)

    return Pulled([taken], makes, compute)


def _convolution(equation: core.JaxprEqn, part: Part) -> Pulled | None:
    parameters = equation.params
    images, kernel = (_shape(atom) for atom in equation.invars)
    numbers, groups = parameters["dimension_numbers"], parameters["feature_group_count"]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    if parameters["batch_group_count"] != 1:
        return None
    pads, of_images, of_kernel, makes = list(parameters["padding"]), {}, {}, {}
    for axis, cut in part.items():
        place = out.index(axis)
        if place == 0:
            of_images[lhs[0]], makes[axis] = cut, cut
        elif place == 1:
            if groups > 1 and (cut.size > 1 or cut.source is None or cut[1:3] != (1, 0)):
                continue
            of_kernel[rhs[0]], makes[axis] = cut, cut
            if groups > 1:
                assert cut.source is not None
                each = kernel[rhs[1]]
                # The channels that this one's group sees.
                of_group = cut.source._replace(
                    divisor=cut.source.divisor * (kernel[rhs[0]] // groups)
                )
                of_images[lhs[1]] = Cut(of_group, each, 0, each)
        else:
            i = place - 2
            extent = (kernel[rhs[place]] - 1) * parameters["rhs_dilation"][i] + 1
            seen = cut.through(
                stride=parameters["window_strides"][i], start=-pads[i][0], extent=extent
            )
            if parameters["lhs_dilation"][i] == 1 and seen.size < max(images[lhs[place]], 2):
                of_images[lhs[place]], makes[axis], pads[i] = seen, cut, (0, 0)
    padding = tuple(pads)
    remaining = 1 if groups > 1 and rhs[0] in of_kernel else groups
    in_space = {axis: cut for axis, cut in of_images.items() if axis in lhs[2:]}

    def compute(operands: Sequence[Any], sources: Sources, apply: Apply) -> Any:
        found = filled(operands[0], in_space, images, 0.0, sources)
        return _with(
            equation,
            [found, operands[1]],
            apply,
            padding=padding,
            feature_group_count=remaining,
        )

    return Pulled([of_images, of_kernel], makes, compute)


# ------------------------------------------------------------------------------ products


def _dot(equation: core.JaxprEqn, part: Part) -> Pulled:
    shapes = [_shape(atom) for atom in equation.invars]
    contracted, batched = equation.params["dimension_numbers"]
    free = [
        [i for i in range(len(shapes[s])) if i not in (*contracted[s], *batched[s])] for s in (0, 1)
    ]
    takes: list[Part] = [{}, {}]
    for axis, cut in part.items():
        if axis < len(batched[0]):
            for side in (0, 1):
                takes[side][batched[side][axis]] = cut
        elif axis < len(batched[0]) + len(free[0]):
            takes[0][free[0][axis - len(batched[0])]] = cut
        else:
            takes[1][free[1][axis - len(batched[0]) - len(free[0])]] = cut
    return Pulled(takes, part, _as_it_is(equation))


_RULES: dict[str, Callable[[core.JaxprEqn, Part], Pulled | None]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _along,
    "conv_general_dilated": _convolution,
    "cumlogsumexp": _along,
    "cummax": _along,
    "cummin": _along,
    "cumprod": _along,
    "cumsum": _along,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
