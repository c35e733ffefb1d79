"""What each operator of ONNX does to the axes that `featvis_jax.importers.onnx.axes` follows."""

from __future__ import annotations

from collections.abc import Sequence

from featvis_jax.importers.onnx.axes import (
    CHANNELS,
    Axes,
    Axis,
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
        if len(of_channels) == 1 and (name := of_channels.pop()).isdigit():
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
    # Of tokens some of which are no places of the image, all are tokens.
    is_one = len(same) == 1 and (all(joined) or same == {CHANNELS})
    made[along] = whole(same.pop(), facts.shape[along]) if is_one else facts.unknown(along)
    return made


def _sliced(facts: Facts) -> Sequence[Axis]:
    made = list(_resized(facts))
    starts, steps = facts.integers(1, "starts") or [], facts.integers(4, "steps")
    along = facts.integers(3, "axes") or list(range(len(starts)))
    for axis, step in zip(along, steps or [1] * len(along), strict=True):
        if step < 0:  # Mirrored: what was merged cannot be taken apart as it was.
            place = axis % len(made)
            made[place] = facts.resized(place, facts.data[place])
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
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
    **dict.fromkeys(("Conv", "ConvTranspose", "DepthToSpace", "SpaceToDepth"), _windows),
    **dict.fromkeys(
        ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Pad", "Resize", "Split",
         "Tile", "Upsample"), _resized
    ),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduced),
}  # fmt: skip
_OF_ANY_OPERAND = (_broadcast, _concatenated, einsum, gemm, product)
