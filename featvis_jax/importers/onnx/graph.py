"""From the nodes of an ONNX file to the steps that depend on the image.

Everything else is known beforehand: shapes, and what is computed from constants. It is folded by
ONNX's own reference implementation. Floating-point constants that meet the image are the weights.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jaxtyping import Array
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from featvis_jax.importers.onnx import branches
from featvis_jax.importers.onnx.operators import OPERATORS
from featvis_jax.importers.onnx.operators.registry import (
    Layout,
    Node,
    Operator,
    RefusedError,
    channels_first,
    channels_last,
    with_rank,
)

# What may leave nothing: of a roll by no place, one of two slices is empty.
_CUTTING = ("Slice", "Split")


class Value(NamedTuple):
    """An array on its way through the graph, and its order of axes."""

    array: Array
    channels_last: bool = False


class Step(NamedTuple):
    """A node that depends on the image.

    Attributes:
      node: The node.
      operator: How it is computed.
      shapes: Of its outputs, as in ONNX; ``None`` for one that is left out.
    """

    node: Node
    operator: Operator
    shapes: tuple[jax.ShapeDtypeStruct | None, ...]


class Graph(NamedTuple):
    """What a file computes from an image.

    Attributes:
      input: Name of the image.
      input_shape: Its shape as in ONNX.
      steps: In an order in which they can be computed.
      constants: What is known and no weight: shapes, axes, indices.
      weights: By name, in float32.
    """

    input: str
    input_shape: tuple[int, ...]
    steps: tuple[Step, ...]
    constants: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


def build(model: onnx.ModelProto, input_name: str, input_shape: Sequence[int], opset: int) -> Graph:
    """Fold what is constant and find the shape of all that is not.

    Args:
      model: The file.
      input_name: The image's.
      input_shape: Its shape as in ONNX, with the batch.
      opset: Version of the operator set.

    Raises:
      ValueError: A node cannot be computed here.
    """
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    shapes = {input_name: jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)}
    weights: dict[str, np.ndarray] = {}
    steps: list[Step] = []
    refused: list[str] = []
    lost: set[str] = set()
    pending = deque(model.graph.node)
    while pending:
        proto = pending.popleft()
        node = _node(proto, opset)
        if lost.intersection(node.inputs):
            lost.update(node.outputs)
            continue
        if node.operator == "If":
            if node.inputs[0] not in known:
                raise node.refuse("its condition depends on the image; it has to be constant.")
            nodes, constants = branches.chosen(proto, known[node.inputs[0]])
            known.update(constants)
            pending.extendleft(reversed(nodes))
            continue
        if node.operator in ("Shape", "Size") and node.inputs[0] in shapes:
            shape = np.array(shapes[node.inputs[0]].shape, np.int64)
            first, last = node.attributes.get("start", 0), node.attributes.get("end")
            known[node.outputs[0]] = (
                shape[first:last] if node.operator == "Shape" else np.array(shape.prod())
            )
            continue
        if all(not name or name in known for name in node.inputs):
            known.update(zip(node.outputs, _folded(proto, node, known), strict=True))
            continue
        if node.operator not in OPERATORS or proto.domain not in ("", "ai.onnx"):
            domain = f"{proto.domain}." if proto.domain not in ("", "ai.onnx") else ""
            refused.append(f"{domain}{node.operator} (node {node.name!r})")
            lost.update(node.outputs)
            continue
        operator = OPERATORS[node.operator]
        for position, name in enumerate(node.inputs):
            if name not in known:
                if name and position in operator.static:
                    raise node.refuse(
                        f"its operand {name!r} depends on the image; here it has to be constant."
                    )
            elif position not in operator.static and known[name].dtype.kind == "f":
                weights[name] = np.asarray(known[name], np.float32)
        found = _output_shapes(node, operator, shapes, known, weights)
        steps.append(Step(node, operator, found))
        shapes.update(
            (n, s) for n, s in zip(node.outputs, found, strict=True) if n and s is not None
        )
    if refused:
        raise ValueError(
            f"The importer does not have these operators: {', '.join(refused)}. Add them to "
            "OPERATORS in featvis_jax/importers/onnx/operators/__init__.py, which says how, or "
            "export the network without them."
        )
    used = {name for step in steps for name in step.node.inputs}
    constants = {name: value for name, value in known.items() if name in used - weights.keys()}
    return Graph(input_name, tuple(input_shape), tuple(steps), constants, weights)


def carry_out(step: Step, operands: Sequence[Value | np.ndarray | None]) -> tuple[Value, ...]:
    """Compute one step.

    Args:
      step: The step.
      operands: Its inputs in their order; NumPy arrays where they are static.
    """
    values = [operand for operand in operands if isinstance(operand, Value)]
    rank = max((value.array.ndim for value in values), default=0)
    layout = step.operator.layout
    last = layout is Layout.AS_IT_COMES and any(
        value.channels_last and value.array.ndim == rank for value in values
    )

    def laid_out(position: int, operand: Value | np.ndarray | None) -> Any:
        if not isinstance(operand, Value):
            return operand
        wanted = last or (layout is Layout.CHANNELS_LAST and position == 0)
        array = operand.array
        if layout is Layout.AS_IT_COMES and array.ndim < rank:
            array = with_rank(as_in_onnx(operand), rank)
            return channels_last(array) if wanted else array
        if wanted == operand.channels_last:
            return array
        return channels_last(array) if wanted else channels_first(array)

    node = step.node._replace(channels_last=last)
    arrays = [laid_out(position, operand) for position, operand in enumerate(operands)]
    made = step.operator.function(node, *arrays)
    made = made if isinstance(made, tuple) else (made,)
    return tuple(Value(array, last or layout is Layout.CHANNELS_LAST) for array in made)


def as_in_onnx(value: Value) -> Array:
    """An array with the axes in the order of ONNX."""
    return channels_first(value.array) if value.channels_last else value.array


def _node(proto: onnx.NodeProto, opset: int) -> Node:
    attributes = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        attributes[attribute.name] = value
    return Node(
        name=proto.name or next(filter(None, proto.output), proto.op_type),
        operator=proto.op_type,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes=attributes,
        opset=opset,
    )


def _folded(proto: onnx.NodeProto, node: Node, known: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a node that the image does not enter."""
    try:
        evaluator = ReferenceEvaluator(proto, opsets={"": node.opset})
        feeds = {name: known[name] for name in node.inputs if name}
        results = evaluator.run(None, feeds)
    except Exception as error:
        raise node.refuse(f"it cannot be computed from its constants: {error}.") from error
    return [np.asarray(result) for result in results]  # pyright: ignore


def _output_shapes(
    node: Node,
    operator: Operator,
    shapes: dict[str, jax.ShapeDtypeStruct],
    known: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
) -> tuple[jax.ShapeDtypeStruct | None, ...]:
    step = Step(node, operator, ())
    dynamic = {
        name: shapes[name] if name in shapes else weights[name]
        for position, name in enumerate(node.inputs)
        if name and position not in operator.static and (name in shapes or name in weights)
    }

    def compute(arrays: dict[str, Array]) -> list[Array]:
        values = {name: Value(array) for name, array in arrays.items()}
        return [as_in_onnx(value) for value in carry_out(step, operands(step, values, known))]

    try:
        found = jax.eval_shape(compute, dynamic)
    except RefusedError:
        raise
    except Exception as error:  # Whatever JAX and NumPy say of shapes that do not fit.
        raise node.refuse(f"its operands or attributes do not fit: {error}.") from error
    is_cut = node.operator in _CUTTING or any(not math.prod(x.shape) for x in dynamic.values())
    for shape in found:
        if not all(shape.shape) and not is_cut:
            raise node.refuse(
                f"its output has the shape {shape.shape}, without elements: the image is too small."
            )
    missing = len(node.outputs) - len(found)
    return (*found, *(None,) * missing)


def operands(
    step: Step, values: dict[str, Value], constants: dict[str, np.ndarray]
) -> list[Value | np.ndarray | None]:
    """What a step takes, in order: values by name, constants where they have to be static."""
    taken: list[Value | np.ndarray | None] = []
    for position, name in enumerate(step.node.inputs):
        if not name:
            taken.append(None)
        elif position in step.operator.static:
            taken.append(constants[name])
        elif name in values:
            taken.append(values[name])
        else:
            constant = constants[name]
            as_int32 = constant.astype(np.int32) if constant.dtype.kind in "iu" else constant
            taken.append(Value(jnp.asarray(as_int32)))
    return taken
