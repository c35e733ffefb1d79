"""What each operator of ONNX does to the axes that `featvis_jax.importers.onnx.axes` follows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from featvis_jax.importers.onnx.axes import (
    CHANNELS,
    Axes,
    Axis,
    Joined,
    cut,
    is_known,
    length,
    reshaped,
    resized,
    roles,
    whole,
)
from featvis_jax.importers.onnx.axis_facts import Facts, Rule, common
from featvis_jax.importers.onnx.graph import Graph
from featvis_jax.importers.onnx.operators.shapes import is_all_in_order
from featvis_jax.importers.onnx.product_rules import einsum, gemm, product


def follow(graph: Graph, image: Axes) -> dict[str, Axes]:
    """The axes of every value that depends on the image.

    Args:
      graph: The graph.
      image: The axes of its input.
    """
    found: dict[str, Axes] = {graph.input: image}
    for step in graph.steps:
        operands = [found.get(name) for name in step.node.inputs]
        known = [graph.constants.get(n, graph.weights.get(n)) for n in step.node.inputs]
        for value, shape in zip(step.node.outputs, step.shapes, strict=True):
            if value and shape is not None:
                facts = Facts(step, operands, known, value, shape.shape)
                rule = _RULES.get(step.node.operator, _broadcast)
                has_none = operands[0] is None and rule not in _OF_ANY_OPERAND
                found[value] = _checked(facts, () if has_none else rule(facts))
    return found


def channel_axis(graph: Graph) -> int | None:
    """Which axis of the image the first convolution, pooling or its like takes for channels."""
    image = tuple(whole(str(axis), n) for axis, n in enumerate(graph.input_shape))
    found = follow(graph, image)
    for step in graph.steps:
        axes = found.get(step.node.inputs[0]) if step.node.operator in _CHANNELS_FIRST else None
        if axes is None or len(axes) < 3:
            continue
        of_channels = roles(axes[1])
        if not of_channels:  # A single channel, taken away and added again: the axis that is left.
            of_grid = {role for axis in axes[2:] for role in roles(axis)}
            of_channels = {str(axis) for axis in range(1, len(image))} - of_grid
        if len(of_channels) == 1 and (name := str(of_channels.pop())).isdigit():
            return int(name)
    return None


# Operators that are only defined for (batch, channels, *spatial).
_NAMES = """
AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalMaxPool
GroupNormalization InstanceNormalization MaxPool SpaceToDepth
"""
_CHANNELS_FIRST = frozenset(_NAMES.split())


def _checked(facts: Facts, axes: Sequence[Axis]) -> Axes:
    """Axes that fit the output; of one that does not, nothing is known."""
    if len(axes) != len(facts.shape):
        return tuple(facts.unknown(place) for place in range(len(facts.shape)))
    return tuple(
        axis if length(axis) == n else facts.unknown(place)
        for place, (axis, n) in enumerate(zip(axes, facts.shape, strict=True))
    )


def _broadcast(facts: Facts) -> Sequence[Axis]:
    """Of operators that work element by element, or keep the shape of their operand."""
    return [common(facts, place, facts.operands, facts.shape) for place in range(len(facts.shape))]


def _resized(facts: Facts) -> Sequence[Axis]:
    """Of operators that take or add elements along axes."""
    return [
        axis if length(axis) == n else facts.resized(place, axis)
        for place, (axis, n) in enumerate(zip(facts.data, facts.shape, strict=True))
    ]


def _windows(facts: Facts) -> Sequence[Axis]:
    """Of convolutions: channels are new, the grid is the one before."""
    batch, _, *grid = facts.data
    made = [batch, whole(CHANNELS, facts.shape[1])]
    for place, axis in enumerate(grid, 2):
        found = roles(axis) - {CHANNELS}
        is_grid = len(found) == 1
        made.append(whole(found.pop(), facts.shape[place]) if is_grid else facts.unknown(place))
    return made


def _transposed(facts: Facts) -> Sequence[Axis]:
    order = facts.step.node.attributes.get("perm") or range(len(facts.shape))[::-1]
    return [facts.data[axis] for axis in order]


def _reshaped(facts: Facts) -> Sequence[Axis]:
    return reshaped(facts.data, facts.shape, facts.value)


def _squeezed(facts: Facts) -> Sequence[Axis]:
    rank = len(facts.data)
    gone = facts.integers(1, "axes")
    if gone is None:
        gone = [place for place, axis in enumerate(facts.data) if length(axis) == 1]
    gone = {axis % rank for axis in gone}
    return [axis for place, axis in enumerate(facts.data) if place not in gone]


def _unsqueezed(facts: Facts) -> Sequence[Axis]:
    rank, left = len(facts.shape), list(facts.data)
    new = {axis % rank for axis in facts.integers(1, "axes") or ()}
    return [() if place in new else left.pop(0) for place in range(rank)]


def _concatenated(facts: Facts) -> Sequence[Axis]:
    along = facts.axis("axis", 0, len(facts.shape))
    made = [common(facts, place, facts.operands, facts.shape) for place in range(len(facts.shape))]
    joined = [axes[along] if axes is not None else () for axes in facts.operands]
    same = set[str]().union(*map(roles, joined))
    is_one = len(same) == 1 and (all(joined) or same == {CHANNELS})
    others = _among_others(facts, along) or facts.unknown(along)
    made[along] = whole(same.pop(), facts.shape[along]) if is_one else others
    return made


def _among_others(facts: Facts, along: int) -> Axis | None:
    """Places of the image that something else was put in front of or behind, or both."""
    counts, grids = [0], list[Axis]()  # Of others: before the places, and behind them.
    for axes, constant in zip(facts.operands, facts.constants, strict=True):
        if axes is None and constant is None:
            return None
        axis = () if axes is None else axes[along]
        if axis and is_known(axis):
            (role, *more) = roles(axis)
            found = Joined(0, axis, 0)
            if isinstance(role, Joined) and not more and length(axis) == role.size:
                found = role
            before, grid, behind = found
            grids.append(grid)
            counts = [counts[0] + before, behind]
        else:
            counts[-1] += length(axis) if constant is None else constant.shape[along]
    is_grid = len(grids) == 1 and all(str(role).isdigit() for role in roles(grids[0]))
    return whole(Joined(counts[0], grids[0], counts[1]), facts.shape[along]) if is_grid else None


def _sliced(facts: Facts) -> Sequence[Axis]:
    made = list(_resized(facts))
    starts, steps = facts.integers(1, "starts") or [], facts.integers(4, "steps")
    along = facts.integers(3, "axes") or list(range(len(starts)))
    for axis, start, step in zip(along, starts, steps or [1] * len(along), strict=True):
        place = axis % len(made)
        if step < 0:  # Mirrored: what was merged cannot be taken apart as it was.
            made[place] = facts.resized(place, facts.data[place])
        elif step == 1:
            made[place] = _cut(facts, place, start) or made[place]
    return made


def _cut(facts: Facts, place: int, start: int) -> Axis | None:
    """An axis of the output that is neighbours of the operand's, from one on."""
    size = length(facts.data[place])
    first = min(max(start + size if start < 0 else start, 0), size)
    return cut(facts.data[place], first, first + facts.shape[place])


def _split(facts: Facts) -> Sequence[Axis]:
    made = list(_resized(facts))
    place = facts.axis("axis", 0, len(made))
    outputs = zip(facts.step.node.outputs, facts.step.shapes, strict=True)
    earlier = itertools.takewhile(lambda output: output[0] != facts.value, outputs)
    shapes = [shape for _, shape in earlier]
    if all(shape is not None for shape in shapes):
        start = sum(shape.shape[place] for shape in shapes if shape is not None)
        made[place] = _cut(facts, place, start) or made[place]
    return made


def _gathered(facts: Facts) -> Sequence[Axis]:
    axis = facts.axis("axis", 0, len(facts.data))
    before, behind = facts.data[:axis], facts.data[axis + 1 :]
    indices = facts.constants[1]
    rank = 0 if indices is None else indices.ndim
    if indices is not None and is_all_in_order(indices, length(facts.data[axis])):
        return _reshaped(facts)
    if rank == 1:
        return [*before, facts.resized(axis, facts.data[axis]), *behind]
    return [*before, *(facts.unknown(axis + i) for i in range(rank)), *behind]


def _gathered_nd(facts: Facts) -> Sequence[Axis]:
    indices = facts.constants[1]
    if indices is None or facts.step.node.attributes.get("batch_dims", 0):
        return []
    new = indices.ndim - 1
    return [*(facts.unknown(i) for i in range(new)), *facts.data[indices.shape[-1] :]]


def _reduced(facts: Facts) -> Sequence[Axis]:
    rank = len(facts.data)
    along = facts.integers(1, "axes")
    if not along and facts.step.node.attributes.get("noop_with_empty_axes", 0):
        return facts.data
    gone = {axis % rank for axis in (along or range(rank))}
    if not facts.step.node.attributes.get("keepdims", 1):
        return [axis for place, axis in enumerate(facts.data) if place not in gone]
    return [
        resized(axis, 1, ()) if place in gone else axis for place, axis in enumerate(facts.data)
    ]


_RULES: dict[str, Rule] = {
    "Concat": _concatenated,
    "Einsum": einsum,
    "Flatten": _reshaped,
    "Gather": _gathered,
    "GatherND": _gathered_nd,
    "Gemm": gemm,
    "MatMul": product,
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Split": _split,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
    **dict.fromkeys(("Conv", "ConvTranspose", "DepthToSpace", "SpaceToDepth"), _windows),
    **dict.fromkeys(
        ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Pad", "Resize", "Tile",
         "Upsample"), _resized
    ),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduced),
}  # fmt: skip
_OF_ANY_OPERAND = (_broadcast, _concatenated, einsum, gemm, product)
