"""Random ONNX graphs: a few operators in a row, with whatever attributes their schemas allow.

Every axis of an image has another length, so that axes that were mixed up do not fit or do not
agree. Some graphs hold operators that the importer does not have, or ask for what no runtime
computes: what is asked of them is one clear error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import helper, shape_inference

from tests.importers.onnx.models import Builder
from tests.importers.onnx.random_nodes import COMPUTE, OTHER, Drawn, Shape
from tests.importers.onnx.random_shapes import REARRANGE

_DRAWS = [*COMPUTE, *REARRANGE]


def random_model(
    random: Random, *, operators: int = 3, opsets: Sequence[int] = (11, 13, 17, 18, 20, 21)
) -> onnx.ModelProto:
    """A model of an image whose last value is handed out as a vector too."""
    rank = random.choice((2, 2, 3))
    sizes = random.sample(range(3, 9 if rank == 2 else 7), rank)
    channels = random.choice([n for n in (1, 2, 4, 6) if n not in sizes])
    shape = (1, channels, *sizes) if random.random() < 0.8 else (1, *sizes, channels)
    generator = np.random.default_rng(random.getrandbits(32))
    builder = Builder(generator, shape, opset=random.choice(opsets))
    values: dict[str, Shape] = {"image": shape}
    if shape[-1] == channels:
        _append(builder, values, "image", _first_transposition(random, shape))
    for _ in range(operators):
        value = random.choice(list(values)[-2:])
        for _ in range(8):  # Some operators do not take every shape.
            drawn = random.choice(_DRAWS)(random, builder, values[value])
            if drawn is not None:
                break
        else:
            continue
        if not _append(builder, values, value, drawn, other=_partner(random, values, value)):
            break
    last = list(values)[-1]
    vector = builder.node("Reshape", last, np.array([1, -1]), name="vector")
    return builder.model(vector)


def _first_transposition(random: Random, shape: Shape) -> Drawn:
    """As Keras exports: channels last outside, first inside; of one channel by a reshape."""
    if shape[-1] == 1 and random.random() < 0.5:
        return Drawn("Reshape", (np.array([-1, 1, *shape[1:-1]]),))
    return Drawn("Transpose", (), {"perm": [0, len(shape) - 1, *range(1, len(shape) - 1)]})


def _partner(random: Random, values: dict[str, Shape], value: str) -> str | None:
    """Another value that an operator can take together with this one."""
    like = [name for name, shape in values.items() if shape == values[value] and name != value]
    return random.choice(like) if like and random.random() < 0.6 else None


def _append(
    builder: Builder, values: dict[str, Shape], value: str, drawn: Drawn, other: str | None = None
) -> bool:
    """Write a node down; whether the graph can go on from it."""
    shape = values[value]

    def operand(given: Any) -> Any:
        if given is not OTHER:
            return given
        return builder.normal(*shape) if other is None else other

    operands = [operand(given) for given in drawn.inputs]
    made = builder.node(drawn.operator, value, *operands, outputs=drawn.outputs, **drawn.attributes)
    names = [made] if drawn.outputs == 1 else made
    found = _inferred(builder, names)
    values.update({name: found[name] for name in names if name in found})
    return all(name in found for name in names)


def _inferred(builder: Builder, names: list[str]) -> dict[str, Shape]:
    """The shapes of values, where ONNX can tell them, and there is something to go on from."""
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, builder.shape)
    ends = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph(builder.nodes, "part", [image], ends, builder.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", builder.opset)])
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # A graph that is not valid: it ends here.
        return {}
    found = {}
    for value in inferred.graph.output:
        kind = value.type.tensor_type
        sizes = tuple(d.dim_value for d in kind.shape.dim)
        is_float = kind.elem_type == onnx.TensorProto.FLOAT
        if is_float and all(n > 0 for n in sizes) and math.prod(sizes) < 20_000:
            found[value.name] = sizes
    return found
